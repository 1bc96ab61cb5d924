"""`agvas-runtime segment` and `info`, run as users run them."""

import io
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import segment_files
from agvas_runtime.bundle import write_manifest
from agvas_runtime.cli import app
from agvas_runtime.console import one_line, run
from agvas_runtime.encoding import mask_from_png
from agvas_runtime.errors import EngineError
from agvas_runtime.files import result_names
from agvas_runtime.frames import read_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.segmenter import Text
from agvas_runtime.verdict import Verdict
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES

COMMAND = "agvas_runtime.cli"


@pytest.fixture
def command(capsys):
    """Runs `agvas-runtime` in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            run(app, [str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


def kinds_of_image(photo: Path, folder: Path) -> dict[str, tuple[Path, tuple[int, int]]]:
    """One file of each awkward kind, with the size (H, W) of its upright image."""
    with Image.open(photo) as opened:
        colour = opened.convert("RGB")
    width, height = colour.size
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "grey.png": (grey, {}),
        "rgba.png": (colour.convert("RGBA"), {}),
        "deep.png": (deep, {}),
        "deep.tif": (deep, {}),
        "palette.png": (colour.quantize(16), {}),
        "bilevel.png": (grey.convert("1"), {}),
        "turned.jpg": (colour, {"exif": turned}),
        "one.png": (Image.new("RGB", (1, 1)), {}),
        "thin.png": (Image.new("L", (300, 1), 200), {}),
        "huge.jpg": (colour.resize((4000, 3000)), {}),
    }
    sizes = {"turned.jpg": (width, height), "one.png": (1, 1), "thin.png": (1, 300), "huge.jpg": (3000, 4000)}
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return {name: (folder / name, sizes.get(name, (height, width))) for name in files}


def test_every_kind_of_image_gets_a_mask_of_its_own_size(command, photo, tmp_path):
    (tmp_path / "in").mkdir()
    images = kinds_of_image(photo, tmp_path / "in")
    code, out, err = command("segment", tmp_path / "in", "--out", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    rows = {Path(row["file"]).name: row for row in json.loads(out)}
    assert rows.keys() == images.keys()
    for name, (path, size) in images.items():
        mask = mask_from_png(Path(rows[name]["mask"]).read_bytes())
        assert mask.shape == size == (rows[name]["height"], rows[name]["width"])
        assert mask.sum() == rows[name]["defect_area_px"]
        assert read_image(rows[name]["overlay"]).shape[1] == size[1], path


@pytest.mark.shared
def test_every_evaluation_image_gets_a_mask_of_its_own_size(command, real_open, tmp_path):
    folders = sorted(folder for folder in real_open.glob("*/test/*") if folder.is_dir())
    code, out, err = command("segment", *folders, "--out", tmp_path, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert len(rows) == sum(len(list(folder.iterdir())) for folder in folders)
    for row in rows:
        mask = mask_from_png(Path(row["mask"]).read_bytes())
        assert mask.shape == read_image(row["file"]).shape[:2]


def test_the_segmenter_the_command_and_the_server_give_equal_masks(command, segmenter, client, tmp_path):
    photos = sorted(DEMO_FRAMES.glob("*.jpg"))
    code, out, _ = command("segment", *photos, "--out", tmp_path)
    assert code == 0
    assert "verdict" in out
    masks = {photo: segmenter.segment(photo).mask for photo in photos}
    assert any(mask.any() for mask in masks.values())
    for photo, mask in masks.items():
        written = (tmp_path / f"{photo.stem}_mask.png").read_bytes()
        assert mask_from_png(written).tobytes() == mask.tobytes() == client.segment(photo).mask.tobytes()
        assert set(np.unique(np.asarray(Image.open(io.BytesIO(written))))) <= {0, 255}


def test_thresholds_decide_the_verdict_and_never_the_exit_code(command, photo):
    code, out, _ = command("segment", photo, "--min-area", "1000000000", "--json")
    assert code == 0
    assert json.loads(out)[0]["verdict"] != "REJECT"


TEXT = ("--mode", "describe")
DRAWN = ("--temperature", "1.5", "--top-p", "0.9", "--seed", "5", "--max-tokens", "30")


class Standing:
    """In for a segmenter: does as it does, except for what is given."""

    def __init__(self, segmenter, **instead) -> None:
        self.__dict__ |= instead
        self.segmenter = segmenter

    def __getattr__(self, name):
        return getattr(self.segmenter, name)

    def close(self) -> None:
        self.closed = True


def test_every_mode_s_row_says_what_the_segmenter_says(command, segmenter, photo):
    for mode, options in (
        (Mode.DIRECT, {"class_name": "scratches"}),
        (Mode.DESCRIBE_PLUS, {"normal_look": "A smooth grey surface."}),
        (Mode.CONVERSATION, {"instruction": "What is on the surface?"}),
    ):
        arguments = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
        code, out, err = command("segment", photo, "--mode", mode.value, *arguments, "--json")
        (row,), result = json.loads(out), segmenter.segment(photo, mode=mode, **options)
        assert (code, err) == (0, "")
        for name in ("instruction", "answer", "tokens", "proved_tokens", "one_pass", "verified", "rechecked"):
            assert row[name] == getattr(result, name), name
        assert row["scores"]["normality"] == result.scores.normality
        assert row["groups"] == []


def test_the_options_of_writing_arrive(command, segmenter, photo):
    _, out, _ = command("segment", photo, *TEXT, *DRAWN, "--json")
    decoding = Decoding(temperature=1.5, top_p=0.9, seed=5, max_new_tokens=30)
    assert json.loads(out)[0]["answer"] == segmenter.segment(photo, mode=Mode.DESCRIBE, decoding=decoding).answer
    _, out, _ = command("segment", photo, "--no-text", "--json")
    assert json.loads(out)[0]["verified"] == segmenter.segment(photo, decoding=Decoding(text=False)).verified
    _, out, _ = command("segment", photo, "--strict-below", "1e9", "--json")
    assert json.loads(out)[0]["rechecked"] is True


def test_a_single_image_s_answer_is_printed_above_the_table_and_several_below_it(command, segmenter):
    photos = sorted(DEMO_FRAMES.glob("*.jpg"))[:2]
    answers = [segmenter.segment(photo, mode=Mode.DESCRIBE).answer for photo in photos]
    code, out, err = command("segment", photos[0], *TEXT)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == answers[0]
    _, out, _ = command("segment", *photos, *TEXT)
    assert out.splitlines()[-2:] == [f"{photo}: {answer}" for photo, answer in zip(photos, answers, strict=True)]
    for arguments in ((), (*TEXT, "--no-text")):
        assert not command("segment", photos[0], *arguments)[1].startswith(answers[0][:3])


def test_an_answer_that_is_read_again_is_printed_again(command, photo, segmenter):
    _, out, _ = command("segment", photo, "--mode", "explain", "--strict-below", "1e9")
    answer = segmenter.segment(photo, mode=Mode.EXPLAIN, decoding=Decoding(strict_below=1e9)).answer
    assert f"read again: {answer}" in out.splitlines()


def test_what_a_model_writes_cannot_steer_the_terminal(command, photo, segmenter, monkeypatch):
    def stream(image, request, recipe, **options):
        yield Text("a\x1b[2Jb\n")
        yield segmenter.segment(image)

    monkeypatch.setattr(segment_files, "open_bundle", lambda *_: Standing(segmenter, stream=stream))
    assert command("segment", photo, *TEXT)[1].startswith("a [2Jb\n")


def test_an_interrupt_during_an_answer_is_exit_code_130_behind_what_was_written(command, photo, segmenter, monkeypatch):
    def stream(*arguments, **options):
        for event in segmenter.stream(*arguments, **options):
            yield event
            signal.raise_signal(signal.SIGINT)

    standing = Standing(segmenter, stream=stream)
    monkeypatch.setattr(segment_files, "open_bundle", lambda *_: standing)
    code, out, err = command("segment", photo, *TEXT)
    assert (code, err, standing.closed) == (130, "", True)
    first = next(segmenter.stream(photo, Request(Mode.DESCRIBE)))
    assert out == f"{first.text}\n"


def test_several_groups_of_anchors_give_several_masks(command, photo, segmenter, monkeypatch, tmp_path):
    result = segmenter.segment(photo)
    left, right = result.probability.copy(), result.probability.copy()
    left[:, 100:], right[:, :100] = 0, 0
    several = replace(result, group_maps=(left, right))
    standing = Standing(segmenter, segment_batch=lambda *_, **__: [several])
    monkeypatch.setattr(segment_files, "open_bundle", lambda *_: standing)
    _, out, _ = command("segment", photo, "--json", "--out", tmp_path)
    (row,) = json.loads(out)
    names = [f"{photo.stem}_mask_1.png", f"{photo.stem}_mask_2.png"]
    assert [group["mask"] for group in row["groups"]] == [str(tmp_path / name) for name in names]
    for name, group, probability in zip(names, row["groups"], (left, right), strict=True):
        mask = mask_from_png((tmp_path / name).read_bytes())
        assert np.array_equal(mask, probability > segmenter.manifest.model.threshold)
        assert group["defect_area_px"] == mask.sum()
    assert np.array_equal(mask_from_png(Path(row["mask"]).read_bytes()), result.mask)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--mode", "describ"), "--mode"),
        (("--mode", "conversation"), "mode conversation needs instruction, your question"),
        (("--mode", "describe-plus"), "mode describe-plus needs normal_look"),
        (("--mode", "general"), "mode general needs class_name"),
        (("--normal-look", "a"), "takes no normal_look"),
        (("--class-name", "a", "--instruction", "b"), "can't use both instruction and class_name"),
        (("--class-name", " "), "class_name: found a blank text"),
        (("--instruction", "x" * 501), "instruction: found 501 characters"),
        (("--max-tokens", "0"), "--max-tokens"),
        (("--temperature", "11"), "--temperature"),
        (("--temperature", "nan"), "--temperature"),
        (("--top-p", "0"), "--top-p: found 0.0, input should be greater than 0"),
        (("--seed", "-1"), "--seed"),
        (("--strict-below", "-1"), "--strict-below"),
        (("--min-score", "nan"), "--min-score"),
    ],
)
def test_a_wrong_request_is_exit_code_2_and_one_line_before_the_bundle_is_opened(command, photo, arguments, text):
    code, out, err = command("segment", photo, "--bundle", "no/such/bundle", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert text in err


def test_a_wrong_warm_up_is_exit_code_2_and_one_line(command):
    code, _, err = command("serve", "--bundle", "no/such/bundle", "--warm", "a", "--warm", " ")
    assert (code, err) == (2, "error: --warm: instruction: found a blank text, expected words\n")


def test_each_bad_file_is_one_line_and_the_good_ones_are_still_written(run_module, photo, tmp_path):
    bad = {
        "truncated.jpg": photo.read_bytes()[: photo.stat().st_size // 2],
        "text.png": b"this is a letter, not a picture",
        "empty.png": b"",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    files = [tmp_path / name for name in (*bad, "missing.png", "folder")]
    done = run_module(COMMAND, "segment", files[0], photo, *files[1:], "--out", tmp_path / "out")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(files)
    for path in files:
        assert [line for line in lines if line.startswith("error: ") and str(path) in line], path
    assert "truncated" in next(line for line in lines if "truncated.jpg" in line)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{photo.stem}_mask.png",
        f"{photo.stem}_overlay.png",
    }


def test_json_names_the_bad_files_too(command, photo, tmp_path):
    code, out, err = command("segment", photo, tmp_path / "missing.png", "--json")
    good, bad = json.loads(out)
    assert (code, good["file"], bad["file"]) == (2, str(photo), str(tmp_path / "missing.png"))
    assert "no such file" in bad["error"]
    assert err == f"error: {bad['error']}\n"


def test_no_image_at_all_is_exit_code_2_and_one_line(command, tmp_path):
    code, out, err = command("segment", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}: no images in this folder")
    assert err.count("\n") == 1


def test_images_of_one_name_in_two_folders_keep_two_results(command, photo, tmp_path):
    for name in ("a/001.jpg", "b/001.jpg", "b/001.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.open(photo).save(tmp_path / name)
    out = tmp_path / "out"
    assert command("segment", tmp_path / "a", tmp_path / "b/001.jpg", "--out", out)[0] == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*_mask.png")) == [
        "a/001_mask.png",
        "b/001_mask.png",
    ]
    assert command("segment", tmp_path / "b", "--out", tmp_path / "out2")[0] == 0
    names = sorted(path.name for path in (tmp_path / "out2").glob("*_mask.png"))
    assert names == ["001.jpg_mask.png", "001.png_mask.png"]


def test_the_same_image_twice_is_processed_once(command, photo):
    code, out, _ = command("segment", photo, photo, photo.parent / "." / photo.name, "--json")
    assert (code, len(json.loads(out))) == (0, 1)


def test_result_names_are_short_where_they_can_be():
    def names(*pairs: tuple[str, str]) -> list[str]:
        return result_names([(Path(folder), Path(folder) / image) for folder, image in pairs])

    assert names(("/x/a", "1.png"), ("/x/b", "2.png")) == ["1", "2"]
    assert names(("/x/a", "1.png"), ("/x/b", "1.png")) == ["a/1", "b/1"]
    assert names(("/x/a", "1.png"), ("/x/a", "1.jpg")) == ["1.png", "1.jpg"]
    assert names() == []


def test_a_result_never_replaces_an_input(command, photo, tmp_path):
    for name in ("a.png", "a_mask.png"):
        Image.open(photo).save(tmp_path / name)
    before = (tmp_path / "a_mask.png").read_bytes()
    code, _, err = command("segment", tmp_path, "--out", tmp_path)
    assert code == 2
    assert err == f"error: {tmp_path / 'a_mask.png'}: a result would replace this input; choose another --out\n"
    assert (tmp_path / "a_mask.png").read_bytes() == before
    (tmp_path / "a_mask.png").rename(tmp_path / "a_mask_2.png")
    code, _, err = command("segment", tmp_path, "--out", tmp_path)
    assert (code, err.startswith(f"error: {tmp_path / 'a_mask_2.png'}: a result would replace")) == (2, True)


def test_an_out_folder_that_cannot_be_made_is_one_line(command, photo, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = command("segment", photo, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert err == f"error: {tmp_path / 'file' / 'out'}: cannot make this folder: Not a directory\n"


def test_an_out_folder_that_takes_no_files_is_refused_before_the_work(command, photo):
    code, out, err = command("segment", photo, "--out", "/proc", "--bundle", "no/such/bundle")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: /proc: cannot write into this folder: ")


def test_a_row_whose_masks_cannot_be_written_keeps_its_verdict(command, photo, segmenter, tmp_path, monkeypatch):
    def fail(path, _):
        raise EngineError(f"{path}: cannot write: No space left on device")

    monkeypatch.setattr(segment_files, "open_bundle", lambda *_: Standing(segmenter))
    monkeypatch.setattr(segment_files, "write_whole", fail)
    code, out, err = command("segment", photo, "--out", tmp_path, "--json")
    (row,) = json.loads(out)
    verdict = segmenter.segment(photo).verdict.value
    assert (code, row["verdict"], f"error: {photo}: {row['error']}\n") == (1, verdict, err)
    assert "mask" not in row
    code, out, _ = command("segment", photo, "--out", tmp_path)
    assert (code, verdict in out) == (1, True)


def test_an_interrupt_leaves_the_rows_so_far(command, segmenter, monkeypatch):
    photos = sorted(DEMO_FRAMES.glob("*.jpg"))[:3]

    def segment_batch(paths, *arguments, **options):
        if paths == [photos[1]]:
            signal.raise_signal(signal.SIGINT)
        return segmenter.segment_batch(paths, *arguments, **options)

    standing = Standing(segmenter, segment_batch=segment_batch)
    monkeypatch.setattr(segment_files, "open_bundle", lambda *_: standing)
    code, out, err = command("segment", *photos, "--json")
    assert (code, err, standing.closed) == (130, "", True)
    assert [row["file"] for row in json.loads(out)] == [str(photos[0])]
    code, out, _ = command("segment", *photos)
    assert (code, sum(out.count(verdict.value) for verdict in Verdict)) == (130, 1)  # long paths take several lines


SMALL_FILES_ONLY = """
import resource
from agvas_runtime import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
cli.main()
"""


def test_a_disk_that_takes_no_more_leaves_no_half_written_file(photo, tmp_path):
    command = [sys.executable, "-c", SMALL_FILES_ONLY, "segment", photo, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot write: File too large" in done.stderr
    assert all(path.stat().st_size < 500 for path in (tmp_path / "out").iterdir())
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_info_shows_the_manifest_and_json_carries_it_whole(command, segmenter):
    manifest = segmenter.bundle.manifest
    code, out, _ = command("info", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["graphs"] == manifest.model_dump(mode="json")["graphs"]
    assert facts["size_bytes"] == segmenter.bundle.size_bytes
    code, out, _ = command("info")
    assert code == 0
    assert all(name in out for name in manifest.graphs)


@pytest.mark.parametrize("name", ["part [old]", "x [/y] z", "a :warning: b", "two\nlines\x1b[31m"])
def test_info_shows_names_as_they_are(command, segmenter, tmp_path, name):
    folder = tmp_path / "bundle [/b]"
    shutil.copytree(segmenter.bundle.folder, folder)
    write_manifest(folder, segmenter.manifest.model_copy(update={"name": name}))
    code, out, _ = command("info", folder)
    assert code == 0
    shown = " ".join(out.split())
    assert one_line(name) in shown
    assert "bundle [/b]" in shown
    assert "\x1b" not in out


def test_info_prints_the_card_or_json(command):
    assert command("info", "--card", "--json") == (2, "", "error: can't use both --card and --json; choose one\n")


def test_info_of_no_bundle_is_one_line_with_exit_code_2(command, tmp_path):
    code, _, err = command("info", tmp_path)
    assert (code, err) == (2, f"error: {tmp_path}: no manifest.json, so this is not a bundle\n")


@pytest.mark.parametrize("name", ["segment", "serve", "info"])
def test_every_command_has_help_with_examples(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"agvas-runtime {name}" in out


def test_the_console_script_is_installed():
    assert Path(sys.executable).with_name("agvas-runtime").exists()
