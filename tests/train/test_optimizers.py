"""Muon beside AdamW, and the smaller view of the first steps: who takes what, exact resuming, and what is refused."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import Checkpoint, load_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.loading import load_batches
from agvas_train.dry_run import plan
from agvas_train.model.conv_encoder import StandardConv
from agvas_train.muon import Muon
from agvas_train.optimizers import make_optimizers
from agvas_train.options import make_config
from agvas_train.parallel import Parallel
from agvas_train.runs import run_training
from agvas_train.weights.load import named_tensors

from .conftest import SHORT, losses, quiet
from .processes import train as run_processes

MUON = SHORT.model_copy(update={"optimizer": "muon", "small_view": 96, "small_view_share": 0.75})


def test_muon_takes_the_layers_matrices_and_adamw_all_the_rest(small: Checkpoint) -> None:
    small.model.requires_grad_(True)
    adamw, muon = make_optimizers(small.model, MUON)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    rest = {id(p) for group in adamw.param_groups for p in group["params"]}
    layers = [m for m in small.model.modules() if isinstance(m, nn.Linear | StandardConv)]
    embeddings = small.model.llava.get_input_embeddings().weight
    assert taken == {id(layer.weight) for layer in layers} - {id(embeddings)}  # the head is tied to them
    assert taken.isdisjoint(rest)
    assert taken | rest == {id(p) for p in small.model.parameters()}
    assert sum(p.numel() for p in muon.param_groups[0]["params"]) > 0.6 * sum(
        p.numel() for p in small.model.parameters()
    )


def test_without_muon_there_is_one_optimiser_and_frozen_weights_have_none(small: Checkpoint) -> None:
    small.model.requires_grad_(False)
    trained = small.model.token_refiner
    trained.requires_grad_(True)
    (adamw,) = make_optimizers(small.model, SHORT)
    assert {id(p) for p in adamw.param_groups[0]["params"]} == {id(p) for p in trained.parameters()}
    _, muon = make_optimizers(small.model, MUON)
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(p) for p in trained.parameters() if p.ndim == 2}


def test_steps_taken_together_are_those_of_the_library() -> None:
    shapes = [(8, 24), (24, 8), (24, 8), (16, 16), (8, 24), (40, 8)]
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    last = ours[-1].detach().clone()
    together = Muon(ours, lr=0.01, weight_decay=0.1)
    alone = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for one, other in zip(ours[:-1], theirs[:-1], strict=True):  # the last has no gradient
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        together.step()
        alone.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert torch.equal(ours[-1], last)


def test_a_resumed_run_makes_the_same_steps(tmp_path: Path) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run_training(whole, MUON, resume=False, report=quiet)
    shutil.copytree(whole, halved)
    shutil.rmtree(halved / "final")
    shutil.rmtree(halved / "checkpoints" / "step-000004")
    run_training(halved, MUON, resume=True, report=quiet)
    one, other = (named_tensors(load_checkpoint(run / "final").model) for run in (whole, halved))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_steps_see_a_smaller_view(small: Checkpoint) -> None:
    alone = Parallel(Accelerator(cpu=True), micro_batch=2, accumulated=1, deepspeed=False)
    batches = list(islice(load_batches(small, None, MUON, 2, alone), 2))
    assert [batch.pixel.shape[-1] for batch in batches] == [96, 288]
    assert [batch.target.shape[-1] for batch in batches] == [48, 144]
    assert [batch.semantic.shape[-1] for batch in batches] == [96, 96]


@pytest.mark.parametrize("side", [16, 48, 100, 320])
def test_a_view_that_the_encoder_cannot_take_is_one_line_and_leaves_nothing(side: int, tmp_path: Path) -> None:
    config = MUON.model_copy(update={"small_view": side})
    for begin in (lambda: run_training(tmp_path / "run", config, resume=False, report=quiet), lambda: plan(config)):
        with pytest.raises(InputError, match=rf"^small_view: is {side}, expected a multiple of 32 up to 288$"):
            begin()
    assert not (tmp_path / "run").exists()


def test_an_encoder_of_one_side_takes_no_smaller_view() -> None:
    with pytest.raises(InputError, match=r"^small_view: is 96, expected none: a pixel encoder of kind sam takes one"):
        plan(TrainConfig(preset="0.5b", base="nowhere", small_view=96))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"deepspeed": "zero2.json"}, "optimizer muon does not run under DeepSpeed; expected adamw"),
        ({"lora": 4, "base": "x"}, "optimizer muon does not run on LoRA adapters; expected adamw"),
        ({"data": {"root": "x"}, "usual_words": 0.5}, "empty_maps and usual_words are about synthetic images"),
        ({"data": {"root": "x"}, "orientations": 2}, "orientations is about synthetic images; expected 1 beside data"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=f"^recipe.yaml: {reason}"):
        make_config({"preset": "tiny", "optimizer": "muon", **options}, source="recipe.yaml")


def test_two_processes_train_the_whole_model_as_one_does(tmp_path: Path) -> None:
    """Muon, and a view that changes its size on the way."""
    recipe = MUON.model_dump(mode="json", exclude_unset=True) | {"micro_batch": 1}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    for processes in (1, 2):
        said = tmp_path / f"said{processes}"
        arguments = ("--config", "recipe.yaml", "--out", f"run{processes}")
        done = run_processes(tmp_path, *arguments, said=said, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = tmp_path / "run1", tmp_path / "run2"
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert len(losses(one)) == MUON.steps
