"""Weights halfway between a training's beginning and its end."""

from dataclasses import replace
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from agvas_train.weights.load import named_tensors
from agvas_train.weights.store import weights_sha256
from tools.halfway import halfway


@pytest.fixture
def run(small: Checkpoint, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and a checkpoint that was trained from it: every weight is 2 more."""
    base, end = tmp_path / "base", tmp_path / "end"
    save_checkpoint(small, base)
    trained = load_checkpoint(base)
    for tensor in trained.model.parameters():
        tensor.data += 2
    provenance = {"step": 7, "train": {"base_sha256": weights_sha256(base)}, "base": {"step": 3}}
    save_checkpoint(replace(trained, provenance=provenance), end)
    return base, end


def test_every_weight_lies_halfway_and_the_provenance_says_so(run: tuple[Path, Path], tmp_path: Path) -> None:
    base, end = run
    halfway(end, base, tmp_path / "out")
    made, first = load_checkpoint(tmp_path / "out"), load_checkpoint(base)
    moved = {name for name, _ in first.model.named_parameters()}
    begun = named_tensors(first.model)
    for name, tensor in named_tensors(made.model).items():
        assert (tensor - begun[name] - float(name in moved)).abs().max() < 1e-5, name
    assert made.provenance["halfway_from_base"] is True
    assert (made.provenance["step"], made.provenance["base"]) == (7, {"step": 3})


def test_another_base_and_a_folder_that_is_there_are_refused(run: tuple[Path, Path], tmp_path: Path) -> None:
    base, end = run
    with pytest.raises(InputError, match=r"end: found weights .*, expected those that .*end began with"):
        halfway(end, end, tmp_path / "out")
    with pytest.raises(InputError, match="base: exists already"):
        halfway(end, base, base)
    assert not (tmp_path / "out").exists()
