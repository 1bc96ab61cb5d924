"""Real runs of two processes on this machine (gloo) have the losses of one, with DeepSpeed and without."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from agvas_runtime.errors import InputError
from agvas_train.lora import load_adapted
from agvas_train.options import shipped_recipes
from agvas_train.parallel import read_deepspeed
from agvas_train.weights.load import named_tensors

from .conftest import losses

STAGES = Path(next(iter(shipped_recipes().values()))).parent / "deepspeed"
RECIPE = """
steps: 3
batch_size: 4
micro_batch: 1
save_every: 2
warmup_steps: 2
learning_rate: 0.001
lora: 8
lora_dropout: 0
workers: 0
mixture: {direct: 0.4, general: 0.4, conversation: 0.2}
"""


def start(root: Path, run: str, processes: int, *options: str) -> Path:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "agvas_train"]
    done = subprocess.run([*launcher, "--out", run, *options], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote") == 1
    return root / run


@pytest.fixture(scope="module")
def single(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run of one process: four micro-batches a step."""
    root = tmp_path_factory.mktemp("parallel")
    (root / "recipe.yaml").write_text(RECIPE + f"base: {small_folder}\n")
    return start(root, "single", 1, "--config", "recipe.yaml")


def same_weights(left: Path, right: Path, tolerance: float) -> None:
    mine, theirs = (named_tensors(load_adapted(run / "final")[0].model) for run in (left, right))
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=tolerance, msg=name)


def test_two_processes_give_the_losses_of_one(single: Path) -> None:
    two = start(single.parent, "two", 2, "--config", "recipe.yaml")
    assert losses(two) == pytest.approx(losses(single), rel=1e-5)
    same_weights(two, single, 2e-3)


def test_a_larger_micro_batch_gives_the_same_losses(single: Path) -> None:
    whole = start(single.parent, "whole", 1, "--config", "recipe.yaml", "--micro-batch", "4")
    assert losses(whole) == pytest.approx(losses(single), rel=1e-5)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the extra deepspeed is not installed")
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gives_the_losses_of_one_process_and_resumes(single: Path, stage: int) -> None:
    config = str(STAGES / f"zero{stage}.json")
    run = start(single.parent, f"zero{stage}", 2, "--config", "recipe.yaml", "--deepspeed", config)
    assert losses(run) == pytest.approx(losses(single), rel=1e-4)
    same_weights(run, single, 2e-3)
    again = single.parent / f"again{stage}"
    shutil.copytree(run, again)
    shutil.rmtree(again / "final")
    shutil.rmtree(again / "checkpoints" / "step-000003")
    start(single.parent, again.name, 2, "--resume")
    assert losses(again) == pytest.approx(losses(run), rel=1e-5)


def test_bf16_follows_fp32(single: Path) -> None:
    run = start(single.parent, "bf16", 1, "--config", "recipe.yaml", "--precision", "bf16", "--gradient-checkpointing")
    assert losses(run) == pytest.approx(losses(single), rel=0.02)
    assert losses(run) != losses(single)
    adapter = load_adapted(run / "final")[0]
    trained = [p for p in adapter.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}


def test_gradient_checkpointing_changes_no_loss(single: Path) -> None:
    run = start(single.parent, "checkpointed", 1, "--config", "recipe.yaml", "--gradient-checkpointing")
    assert losses(run) == pytest.approx(losses(single), rel=1e-6)


def test_a_deepspeed_file_that_sets_what_the_recipe_sets_is_refused(tmp_path: Path) -> None:
    content = json.loads((STAGES / "zero2.json").read_text())
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**content, "train_batch_size": 8}))
    with pytest.raises(InputError, match=r"zero\.json: train_batch_size comes from the recipe"):
        read_deepspeed(file)
    file.write_text("[]")
    with pytest.raises(InputError, match="found no zero_optimization"):
        read_deepspeed(file)
