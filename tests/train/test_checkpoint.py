"""Checkpoint folders: whole, in shards, by reference; wrong ones are one line that names both sides."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from agvas_runtime.errors import EngineError, InputError
from agvas_train.assemble import random_base
from agvas_train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    require_new,
    save_checkpoint,
    write_checkpoint,
    write_folder,
)
from agvas_train.model import PRESETS
from agvas_train.weights.load import named_tensors
from agvas_train.weights.reader import in_memory, open_weights
from agvas_train.weights.store import INDEX, MODEL, REFERENCES, read_weights, weights_sha256

SHARD = 400_000


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset with random weights, in many shards."""
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    write_checkpoint(*random_base(PRESETS["tiny"](1536), 0, "float32"), folder, shard_bytes=SHARD)
    return folder


@pytest.fixture
def light(sharded: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of it, and a checkpoint that leaves its tensors there."""
    source, out = tmp_path / "source", tmp_path / "light"
    shutil.copytree(sharded, source)
    loaded = load_checkpoint(source)
    write_checkpoint(loaded.info, read_weights(source), out, by_reference=True)
    return source, out


def same(left: Checkpoint, right: Checkpoint) -> bool:
    mine, theirs = named_tensors(left.model), named_tensors(right.model)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_shards_are_no_larger_than_asked_and_load_as_one_model(sharded: Path, tmp_path: Path) -> None:
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 5
    largest = max(tensor.nbytes for tensor in open_weights(sharded).values())
    assert all(shard.stat().st_size < max(SHARD, largest) + 10_000 for shard in shards)
    whole = tmp_path / "whole"
    save_checkpoint(load_checkpoint(sharded), whole)
    assert [path.name for path in whole.glob("*.safetensors")] == [MODEL]
    assert same(load_checkpoint(sharded), load_checkpoint(whole))


def test_a_checkpoint_by_reference_holds_no_weights_and_loads_as_the_same_model(light: tuple[Path, Path]) -> None:
    source, out = light
    assert sum(path.stat().st_size for path in out.glob("*.safetensors")) < 1000
    assert same(load_checkpoint(source), load_checkpoint(out))


def test_the_hash_of_the_weights_follows_content_and_not_place(light: tuple[Path, Path], tmp_path: Path) -> None:
    source, out = light
    before = weights_sha256(out)
    moved = tmp_path / "elsewhere"
    source.rename(moved)
    record = json.loads((out / REFERENCES).read_text())
    for entry in record["files"].values():
        entry["path"] = str(moved / Path(entry["path"]).name)
    (out / REFERENCES).write_text(json.dumps(record))
    assert weights_sha256(out) == before
    load_checkpoint(out)


def test_a_referenced_file_that_changed_or_went_is_refused(light: tuple[Path, Path]) -> None:
    source, out = light
    shard = sorted(source.glob("model-*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=rf"{shard.name}: found sha256 .* refers to"):
        load_checkpoint(out)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: is not there; .*light refers to it"):
        load_checkpoint(out)


def test_a_missing_or_altered_shard_is_named(sharded: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(sharded, broken)
    shard = sorted(broken.glob("model-*.safetensors"))[2]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=rf"{shard.name}: found sha256"):
        load_checkpoint(broken)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: shard 3 of \d+ is missing; {INDEX} needs it"):
        load_checkpoint(broken)


def test_an_index_without_hashes_is_refused(sharded: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(sharded, broken)
    index = json.loads((broken / INDEX).read_text())
    first = next(iter(index["metadata"]["files"]))
    index["metadata"]["files"][first].pop("sha256")
    (broken / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"the entry of {first} lacks its sha256"):
        load_checkpoint(broken)
    index["metadata"]["files"] = {}
    (broken / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=f"records no hash of {first}"):
        load_checkpoint(broken)


@pytest.mark.parametrize("name", [MODEL, "config.json", "tokenizer.json", "templates.json"])
def test_a_checkpoint_without_a_file_is_refused(small_folder: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    (broken / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_checkpoint(broken)


def test_cut_weights_are_refused(small_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    (broken / MODEL).write_bytes((broken / MODEL).read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_checkpoint(broken)


def test_missing_unexpected_and_misshapen_tensors_name_both_sides(small: Checkpoint, tmp_path: Path) -> None:
    tensors = in_memory(named_tensors(small.model))
    name = "spam.q_proj.weight"
    without = {key: tensor for key, tensor in tensors.items() if key != name}
    with pytest.raises(InputError, match=rf"x: tensor {name} is missing, which preset tiny expects"):
        write_checkpoint(small.info, without, tmp_path / "x")
    with pytest.raises(InputError, match=r"x: unexpected tensor spam\.extra, which preset tiny does not have"):
        write_checkpoint(small.info, {**tensors, "spam.extra": tensors[name]}, tmp_path / "x")
    odd = in_memory({name: torch.zeros(3, 4)})
    with pytest.raises(InputError, match=rf"x: {name} has shape \(3, 4\), preset tiny expects \(128, 128\)"):
        write_checkpoint(small.info, {**tensors, **odd}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_configuration_of_another_size_is_refused(small_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    config = json.loads((broken / "config.json").read_text())
    config["model"]["language"]["intermediate_size"] = 512
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"mlp.*has shape .*, preset tiny expects"):
        load_checkpoint(broken)


def test_a_tokenizer_without_the_anchors_is_refused(small_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "[ANO]"]
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"broken: tokenizer\.json has no added token '\[ANO\]'"):
        load_checkpoint(broken)


def test_a_tokenizer_larger_than_the_embeddings_is_refused(small_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    config = json.loads((broken / "config.json").read_text())
    config["model"]["language"]["vocab_size"] = 600
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"tokenizer\.json has \d+ tokens, config\.json has embeddings for 600"):
        load_checkpoint(broken)


def test_nothing_is_left_of_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device", str(folder / "rest"))

    with pytest.raises(EngineError, match="rest: cannot write: No space left on device"):
        write_folder(tmp_path / "out", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("folder", "what"), [(".", "the current folder"), ("/proc", "a mount point")])
def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(
    folder: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"is {what}; name a folder in it"):
        require_new(Path(folder))
