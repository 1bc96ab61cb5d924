"""Real runs of two processes on this machine (gloo) have the losses of one, with DeepSpeed and without.

torchrun starts the plain run; the others are started in the environment that it gives its processes.
"""

import copy
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import MODEL, Checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.conversation import Task
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth_turns import SynthTurns
from agvas_train.loop import train
from agvas_train.lora import ADAPTER, AdapterConfig, add_adapters
from agvas_train.options import shipped_recipes
from agvas_train.parallel import read_deepspeed, start_parallel

from .conftest import losses
from .processes import train as run_processes

STAGES = Path(next(iter(shipped_recipes().values()))).parent / "deepspeed"
RECIPE = """
steps: 4
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
    (root / "said").mkdir(exist_ok=True)
    done = run_processes(root, "--out", run, *options, said=root / "said" / run, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote") == 1
    return root / run


@pytest.fixture(scope="module")
def single(small_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run of one process: four micro-batches a step."""
    root = tmp_path_factory.mktemp("parallel")
    (root / "recipe.yaml").write_text(RECIPE + f"base: {small_folder}\n")
    return start(root, "single", 1, "--config", "recipe.yaml")


def trained(run: Path) -> dict[str, torch.Tensor]:
    """What a run has trained, from its final folder."""
    return load_file(run / "final" / ADAPTER)


def same_updates(left: Path, right: Path, base: Path) -> None:
    """Both runs moved the base nearly alike; Adam makes whole steps of the noise of tiny gradients."""
    mine, theirs, before = trained(left), trained(right), load_file(base / MODEL)
    assert mine.keys() == theirs.keys()
    assert {tensor.dtype for tensor in (*mine.values(), *theirs.values())} == {torch.float32}
    pairs = [(mine[name] - before[name], theirs[name] - before[name]) for name in mine if name in before]
    one, other = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    assert float((one - other).norm() / one.norm()) < 0.05
    assert float(one.norm()) > 0.1


def test_two_processes_give_the_losses_of_one(single: Path, small_folder: Path) -> None:
    two = single.parent / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "agvas_train"]
    command = [*launcher, "--out", two.name, "--config", "recipe.yaml"]
    done = subprocess.run(command, cwd=two.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote") == 1
    assert losses(two) == pytest.approx(losses(single), rel=1e-5)
    same_updates(two, single, small_folder)


def test_a_larger_micro_batch_gives_the_same_losses(single: Path) -> None:
    whole = start(single.parent, "whole", 1, "--config", "recipe.yaml", "--micro-batch", "4")
    assert losses(whole) == pytest.approx(losses(single), rel=1e-5)


deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="the extra deepspeed is not installed")


@deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gives_the_losses_of_one_process_and_resumes(single: Path, small_folder: Path, stage: int) -> None:
    config = str(STAGES / f"zero{stage}.json")
    run = start(single.parent, f"zero{stage}", 2, "--config", "recipe.yaml", "--deepspeed", config)
    assert losses(run) == pytest.approx(losses(single), rel=1e-4)
    same_updates(run, single, small_folder)
    assert read_deepspeed(run / "deepspeed.json") == read_deepspeed(Path(config))
    again = single.parent / f"again{stage}"
    shutil.copytree(run, again)
    shutil.rmtree(again / "final")
    shutil.rmtree(again / "checkpoints" / "step-000004")
    start(single.parent, again.name, 2, "--resume")  # without the moments of the optimiser, step 4 would differ
    assert losses(again) == pytest.approx(losses(run), rel=1e-6)
    found, expected = trained(again), trained(run)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-7, msg=name)


@deepspeed
def test_deepspeed_in_bf16_writes_the_float32_originals(single: Path) -> None:
    config = str(STAGES / "zero2.json")
    options = ("--deepspeed", config, "--precision", "bf16", "--steps", "2")
    run = start(single.parent, "zero-bf16", 2, "--config", "recipe.yaml", *options)
    assert losses(run) == pytest.approx(losses(single)[:2], rel=0.02)
    values = trained(run)
    assert {tensor.dtype for tensor in values.values()} == {torch.float32}
    table = values["llava.model.language_model.embed_tokens.weight"]
    assert not torch.equal(table, table.bfloat16().float())  # more than bfloat16 holds


@deepspeed
def test_a_run_of_two_is_not_resumed_by_one(single: Path, tmp_path: Path) -> None:
    run = tmp_path / "alone"
    shutil.copytree(single.parent / "zero2", run)
    shutil.rmtree(run / "final")
    done = run_processes(tmp_path, "--resume", "--out", run.name, said=tmp_path / "one", processes=1)
    assert "was written by 2 processes, resumed with 1" in done.stderr
    plain = run_processes(tmp_path, "--resume", "--out", run.name, said=tmp_path / "plain")
    assert plain.returncode == 2
    assert "start it with a launcher: torchrun" in plain.stderr


def test_bf16_follows_fp32(single: Path) -> None:
    run = start(single.parent, "bf16", 1, "--config", "recipe.yaml", "--precision", "bf16")
    assert losses(run) == pytest.approx(losses(single), rel=0.02)
    assert losses(run) != losses(single)
    assert {tensor.dtype for tensor in trained(run).values()} == {torch.float32}


def test_gradient_checkpointing_computes_every_layer_twice_and_changes_no_loss(
    small: Checkpoint, tmp_path: Path
) -> None:
    config = TrainConfig(preset="tiny", steps=2, batch_size=2, warmup_steps=1, workers=0, lora=4, lora_dropout=0)
    found = {}
    for name, on in (("plain", False), ("checkpointed", True)):
        model = copy.deepcopy(small.model)
        add_adapters(model, AdapterConfig(rank=4, dropout=0, base="", base_sha256=""))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_A" in key:
                    parameter.fill_(0.01)
        calls = []
        mlp = model.llava.model.language_model.layers[0].mlp
        # before, not after: the second computation stops as soon as it has what the backward pass needs
        mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        settings = config.model_copy(update={"gradient_checkpointing": on})
        figures: list[float] = []
        train(
            model,
            batches(small, 2),
            settings,
            prompter=small.prompter,
            run=tmp_path / name,
            write_files=lambda *_: None,
            report=lambda _, row, figures=figures: figures.append(row["loss"]),
            resumed=None,
            parallel=start_parallel(settings),
        )
        found[name] = figures, len(calls)
    assert found["checkpointed"][0] == pytest.approx(found["plain"][0], rel=1e-6)
    assert found["checkpointed"][1] == 2 * found["plain"][1] == 4


def batches(checkpoint: Checkpoint, steps: int) -> TurnStream:
    """The first steps' batches of two samples."""
    return TurnStream(
        SynthTurns(checkpoint.templates, {Task.DIRECT: 1.0}, SynthConfig(), seed=1),
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        batch_size=2,
        micro_batch=2,
        start=0,
        stop=steps,
    )


def test_a_deepspeed_file_that_sets_what_the_recipe_sets_is_refused(tmp_path: Path) -> None:
    content = json.loads((STAGES / "zero2.json").read_text())
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**content, "train_batch_size": 8}))
    with pytest.raises(InputError, match=r"zero\.json: train_batch_size comes from the recipe"):
        read_deepspeed(file)
    file.write_text(json.dumps({**content, "fp16": {"enabled": True}}))
    with pytest.raises(InputError, match=r"zero\.json: fp16 comes from the recipe"):
        read_deepspeed(file)
    file.write_text(json.dumps({"zero_optimization": {}}))
    with pytest.raises(InputError, match="zero_optimization has no stage, expected 1, 2 or 3"):
        read_deepspeed(file)
    file.write_text("[]")
    with pytest.raises(InputError, match="found no zero_optimization"):
        read_deepspeed(file)
