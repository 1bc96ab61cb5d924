"""A bundle opens only if it is complete, unaltered, inside its folder, and of a schema this agvas understands."""

import json
import os
import shutil
import stat
from hashlib import sha256

import numpy as np
import pytest

from agvas_runtime import hashing
from agvas_runtime.bundle import Bundle, Manifest, write_manifest
from agvas_runtime.errors import BundleError
from agvas_runtime.templates import read_templates

GRAPH = {
    "file": "graphs/spam.onnx",
    "inputs": [{"name": "semantic", "dtype": "float32", "shape": [1, "N", 8]}],
    "outputs": [{"name": "visual", "dtype": "float32", "shape": [1, "V", 8]}],
    "precision": "float32",
    "opset": 20,
}
VIEW = {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
FIELDS = {
    "name": "test",
    "licence": "Apache-2.0",
    "created_with": {"agvas": "0.1.0"},
    "source": {"checkpoint_sha256": "0" * 64, "preset": "tiny", "random_weights": True},
    "graphs": {"spam": GRAPH},
    "preprocessing": {"semantic": VIEW, "pixel": VIEW},
    "prompt": {
        "chat_template": "<image>{instruction}",
        "image_token": "<image>",
        "end_token": "<end>",
        "anchors": ["[NOR]", "[ANO]", "[SEG]"],
        "default_instruction": "Please segment the anomalies in this image.",
    },
    "model": {
        "hidden_size": 8,
        "visual_tokens": 5,
        "map_size": 16,
        "canvas": 32,
        "anchor_state": "token",
        "alpha": 0.5,
        "threshold": 0.5,
    },
    "parity": {"max_abs_diff": 1e-5, "images": 20, "note": "fp32"},
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "graphs").mkdir(parents=True)
    (folder / "graphs" / "spam.onnx").write_bytes(bytes(range(256)) * 20)
    (folder / "tokenizer.json").write_text('{"a": "ä"}', encoding="utf-8")
    (folder / "templates.json").write_text("{}")
    np.save(folder / "embeddings.npy", np.ones((20, 8), np.float16))
    write_manifest(folder, Manifest.model_validate(FIELDS))
    return folder


def edit(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(folder, reason):
    with pytest.raises(BundleError, match=reason) as caught:
        Bundle.open(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


def test_a_whole_bundle_opens(folder):
    bundle = Bundle.open(str(folder))
    assert bundle.manifest.name == "test"
    assert bundle.tokenizer_json == '{"a": "ä"}'
    assert bundle.graph_path("spam") == folder / "graphs/spam.onnx"
    assert bundle.templates.is_file()
    assert bundle.embeddings().shape == (20, 8)
    names = ("graphs/spam.onnx", "tokenizer.json", "templates.json", "embeddings.npy")
    assert bundle.size_bytes == sum((folder / name).stat().st_size for name in names)


def test_writing_lists_everything_but_the_manifest_and_the_engines(folder):
    (folder / "engines" / "gpu").mkdir(parents=True)
    (folder / "engines" / "gpu" / "llm.plan").write_bytes(b"plan")
    (folder / "graphs" / "llm.onnx.data").write_bytes(b"weights")
    written = write_manifest(folder, Bundle.open(folder).manifest)
    assert sorted(written.files) == [
        "embeddings.npy",
        "graphs/llm.onnx.data",
        "graphs/spam.onnx",
        "templates.json",
        "tokenizer.json",
    ]
    assert written.files["graphs/llm.onnx.data"].sha256 == sha256(b"weights").hexdigest()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    assert Bundle.open(folder).manifest == written


def test_files_that_the_manifest_does_not_list_are_ignored(folder):
    (folder / "notes.txt").write_text("hello")
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"notes.txt is not listed"):
        bundle.path("notes.txt")


@pytest.mark.parametrize("name", ["graphs/spam.onnx", "tokenizer.json", "templates.json", "embeddings.npy"])
def test_one_flipped_bit_is_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refused(folder, f"{name} is altered")


def test_a_flipped_bit_anywhere_in_the_manifest_is_refused(folder):
    manifest = folder / "manifest.json"
    content = manifest.read_bytes()
    for position in range(0, len(content), 7):
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        manifest.write_bytes(altered)
        with pytest.raises(BundleError):
            Bundle.open(folder)
    manifest.write_bytes(content)
    Bundle.open(folder)


def test_an_altered_threshold_is_named(folder):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threshold": 0.5', '"threshold": 0.7'))
    refused(folder, "manifest.json is altered")


def test_a_file_of_another_size_is_refused(folder):
    with (folder / "graphs" / "spam.onnx").open("ab") as file:
        file.write(b"x")
    refused(folder, "graphs/spam.onnx has 5121 bytes, manifest.json says 5120")


def test_a_missing_file_is_refused(folder):
    (folder / "embeddings.npy").unlink()
    refused(folder, "embeddings.npy is missing")


def test_a_folder_in_a_files_place_is_refused(folder):
    (folder / "templates.json").unlink()
    (folder / "templates.json").mkdir()
    refused(folder, "templates.json is not a file")


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/hostname", "graphs/../../outside", "C:\\x", "a\\b", "", ".", "./x", "a//b", "a\0b", "\ud800"],
)
def test_a_path_that_leaves_the_folder_is_refused(folder, name):
    (folder.parent / "outside").write_bytes(b"")
    entry = {"sha256": sha256(b"").hexdigest(), "size": 0}
    edit(folder, lambda content: content["files"].update({name: entry}))
    refused(folder, "is not a plain path inside the bundle")


def test_a_link_that_leaves_the_folder_is_refused(folder):
    outside = folder.parent / "outside"
    shutil.move(folder / "templates.json", outside)
    (folder / "templates.json").symlink_to(outside)
    refused(folder, "templates.json is a link that leaves the bundle")
    with pytest.raises(BundleError, match="link that leaves"):
        write_manifest(folder, Manifest.model_validate(FIELDS))


def test_links_in_a_circle_are_refused(folder):
    (folder / "templates.json").unlink()
    (folder / "templates.json").symlink_to("templates.json")
    refused(folder, "templates.json: Too many levels of symbolic links")


def test_a_path_that_is_too_long_is_one_line(folder):
    long = "x" * 300
    refused(folder / long, "File name too long$")
    edit(folder, lambda content: content["files"].update({long: {"sha256": "0" * 64, "size": 0}}))
    refused(folder, f"{long}: File name too long$")


def test_a_bundle_may_itself_be_reached_by_a_link(folder):
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert Bundle.open(link).manifest.name == "test"


def test_a_newer_schema_is_refused_whatever_else_it_holds(folder):
    def change(content):
        content.update(schema_version=2, novelty=True)
        del content["model"]

    edit(folder, change)
    refused(folder, "schema version 2 is newer than 1, which this agvas understands$")


@pytest.mark.parametrize("version", [0, "1", None, [1]])
def test_a_schema_version_that_is_none_is_refused(folder, version):
    edit(folder, lambda content: content.update(schema_version=version))
    refused(folder, r"manifest.json: schema_version: ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "manifest.json: Input should be"),
        ("7", "manifest.json: Input should be"),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder, text, reason):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(folder, reason)


def test_wrong_types_are_one_line_that_names_the_field(folder):
    def change(content):
        content["model"].update(alpha="half", threshold=7)
        content["licence"] = None

    edit(folder, change)
    refused(folder, r"manifest.json: licence: .*\(and 2 more\)")


@pytest.mark.parametrize("missing", ["tokenizer.json", "embeddings.npy", "templates.json"])
def test_a_manifest_without_a_needed_file_is_refused(folder, missing):
    edit(folder, lambda content: content["files"].pop(missing))
    refused(folder, f"{missing} is not listed")


def test_a_graph_whose_file_is_not_listed_is_refused(folder):
    edit(folder, lambda content: content["graphs"]["spam"].update(file="graphs/other.onnx"))
    refused(folder, r"graph file graphs/other.onnx is not listed under files")


def test_folders_that_are_no_bundles_say_so(tmp_path):
    for path, reason in ((tmp_path / "nowhere", "no such bundle folder"), (tmp_path, "no manifest.json")):
        refused(path, reason)
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "not a folder")


def test_an_unknown_graph_names_the_ones_there_are(folder):
    with pytest.raises(BundleError, match=r"no graph 'lm' in this bundle \(it has spam\)"):
        Bundle.open(folder).graph_path("lm")


@pytest.mark.parametrize(
    "table", [np.ones((20, 9), np.float32), np.ones(20, np.float32), np.ones((20, 8)), np.array([{}, []], object)]
)
def test_embeddings_of_another_shape_type_or_with_pickles_are_refused(folder, table):
    np.save(folder / "embeddings.npy", table, allow_pickle=True)
    write_manifest(folder, Manifest.model_validate(FIELDS))
    with pytest.raises(BundleError, match=r"embeddings.npy"):
        Bundle.open(folder).embeddings()


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("embeddings.npy", b"", Bundle.embeddings),
        ("tokenizer.json", b"\xff\xfe", lambda bundle: bundle.tokenizer_json),
        ("templates.json", b"\xff\xfe", lambda bundle: read_templates(bundle.templates)),
    ],
)
def test_a_listed_file_that_is_none_of_its_kind_is_one_line(folder, name, content, read):
    (folder / name).write_bytes(content)
    write_manifest(folder, Manifest.model_validate(FIELDS))
    with pytest.raises(BundleError, match=name) as caught:
        read(Bundle.open(folder))
    assert "\n" not in str(caught.value)


def test_a_canvas_that_the_view_does_not_fit_is_refused(folder):
    edit(folder, lambda content: content["model"].update(canvas=31))
    refused(folder, "model.canvas is 31, must be the pixel view's 32")


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_is_not_finite_is_neither_written_nor_read(folder, number):
    manifest, content = Bundle.open(folder).manifest, (folder / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match=r"manifest\.json: parity\.whole\..*finite number"):
        write_manifest(folder, manifest.model_copy(update={"parity": {"whole": {"score_change": number}}}))
    assert (folder / "manifest.json").read_bytes() == content
    edit(folder, lambda content: content["parity"].update(max_abs_diff=number))
    refused(folder, r"manifest.json: parity\.max_abs_diff.*finite number")


def test_large_files_are_hashed_once_and_again_when_touched_or_asked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "REMEMBER_FROM_BYTES", 5000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Bundle.open(folder)
    memory = tmp_path / "cache" / "agvas" / "verified.json"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o600
    known = json.loads(memory.read_text())
    assert len(known) == 1

    (key,) = known
    memory.write_text(json.dumps({key: "f" * 64}))  # what is remembered is what is compared
    refused(folder, "graphs/spam.onnx is altered")
    assert Bundle.open(folder, verify_full=True)
    assert json.loads(memory.read_text()) == known

    memory.write_text(json.dumps({key: "f" * 64}))
    memory.chmod(0o644)  # others could have read or written it
    assert Bundle.open(folder)

    content = bytearray((folder / "graphs" / "spam.onnx").read_bytes())
    content[7] ^= 1
    (folder / "graphs" / "spam.onnx").write_bytes(content)
    refused(folder, "graphs/spam.onnx is altered")


def test_a_home_that_cannot_be_written_costs_nothing_but_time(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "REMEMBER_FROM_BYTES", 1)
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Bundle.open(folder)


def test_a_user_without_a_home_opens_large_files_too(folder, monkeypatch):
    monkeypatch.setattr(hashing, "REMEMBER_FROM_BYTES", 1)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(hashing.Path, "home", home)
    assert Bundle.open(folder)


def test_the_manifest_is_readable_by_others(folder):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((folder / "manifest.json").stat().st_mode) == 0o666 & ~mask
