"""The training loop: steps, schedule, checkpoints, resuming. It knows nothing of how data or models are made."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from agvas_runtime import console
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.prompts import Prompter
from agvas_train.checkpoint import write_folder
from agvas_train.config import TrainConfig
from agvas_train.data.batch import Batch
from agvas_train.journal import Journal
from agvas_train.model import AGVAS
from agvas_train.optimizers import make_optimizers
from agvas_train.parallel import UNFINISHED, Parallel
from agvas_train.step import TrainingStep
from agvas_train.weights.reader import open_weights
from agvas_train.weights.store import save_tensors

OPTIMIZER, STATE, CHECKPOINTS = "optimizer.safetensors", "state.json", "checkpoints"
STEP = re.compile(r"step-(\d+)")
"""A checkpoint's folder; what else lies beside them is somebody's own."""

WriteFiles = Callable[[dict[str, Tensor], int, Path], None]
"""Writes the model's files of one step into a folder, given the trained parameters by name in float32."""
Report = Callable[[int, dict[str, float]], None]
"""Called after every step with its number and its figures."""


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: the step to do next, and the folder that holds the optimiser's state."""

    step: int
    folder: Path


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then linear decay to zero (DeepSpeed's WarmupDecayLR with linear warm-up)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = (config.steps - step) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * max(left, 0.0)


def false_alarm_weight(config: TrainConfig, step: int) -> float:
    """Rises from 0 through the second half of the steps (ours): earlier it keeps a model from finding anything."""
    return config.false_alarms * max(2 * step / config.steps - 1, 0.0)


def train(
    model: AGVAS,
    batches: Iterable[Batch],
    config: TrainConfig,
    *,
    prompter: Prompter,
    run: Path,
    write_files: WriteFiles,
    report: Report,
    resumed: Resumed | None,
    parallel: Parallel,
) -> None:
    """Train the model's trainable parameters in place, from `resumed` (or step 0) to `config.steps`.

    Writes `metrics.jsonl`, TensorBoard scalars and `checkpoints/step-NNNNNN` below `run`.

    Raises:
        InputError: the loss is no longer finite.
        EngineError: a file cannot be written (disk full); the checkpoints written before stay whole.
    """
    torch.set_flush_denormal(True)  # vanishing gradients of the maps would make CPU steps several times slower
    accelerator = parallel.accelerator
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizers = make_optimizers(model, config)
    start = resumed.step if resumed else 0
    if resumed and not parallel.deepspeed:
        _load_optimizers(optimizers, trained, resumed.folder)
    if config.gradient_checkpointing:
        layers = model.llava.model.language_model
        # transformers 5.23 has renamed it
        enable = getattr(layers, "activation_checkpointing_enable", None) or layers.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    step_module = TrainingStep(model.train(), prompter, config.text_weight, config.bce_weight, config.place_weight)
    module, *optimizers = accelerator.prepare(step_module, *optimizers)
    if resumed and parallel.deepspeed:
        parallel.load_state(module, resumed.folder)
    journal = Journal(run, start) if accelerator.is_main_process else None
    if journal:
        for leftover in (*(run / CHECKPOINTS).glob(".step-*"), *run.glob(".final-*")):  # a kill left them half-written
            shutil.rmtree(leftover, ignore_errors=True)
    began = time.perf_counter()
    stream = iter(batches)
    for step in range(start, config.steps):
        rate = learning_rate(config, step)
        figures = _one_step(module, optimizers, stream, config, step, rate, parallel)
        figures["seconds"] = time.perf_counter() - began
        if journal:
            journal.write(step, figures)
            report(step, figures)
        done = step + 1
        if done % config.save_every == 0 or done == config.steps:
            _save(run, done, module, optimizers, trained, write_files, config, parallel)
    model.eval()


def _one_step(
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    batches: Iterator[Batch],
    config: TrainConfig,
    step: int,
    rate: float,
    parallel: Parallel,
) -> dict[str, float]:
    """One optimiser step over all its micro-batches; the figures are the whole batch's, on every process."""
    accelerator = parallel.accelerator
    # Dropout is a function of seed, step and process, as the data are: a resumed run needs no saved random state.
    torch.manual_seed((config.seed * 1_000_003 + step) * 1_009 + accelerator.process_index)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    sums: dict[str, Tensor] = {}
    norm = 0.0
    for _ in range(parallel.accumulated):
        batch = next(batches).to(accelerator.device)
        with accelerator.accumulate(module):
            losses = module(batch, false_alarm_weight(config, step))
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients:
                norm = parallel.clip(module, config.clip_norm)
            for optimizer in optimizers:
                if isfinite(norm):  # else every weight would be spoilt
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach() / parallel.accumulated
    means = accelerator.reduce(torch.stack(list(sums.values())), "mean").tolist()
    figures = dict(zip(sums, means, strict=True))
    if not torch.tensor(means).isfinite().all():
        raise InputError(f"step {step}: the loss is {figures['loss']}; lower the learning rate")
    if not isfinite(norm):
        raise InputError(f"step {step}: the norm of the gradient is {norm}; lower the learning rate")
    return {**figures, "learning_rate": rate, "gradient_norm": norm}


def latest_checkpoint(run: Path) -> Resumed | None:
    """The newest complete checkpoint of a run folder."""
    folders = _checkpoints(run)
    if not folders:
        return None
    state = json.loads((folders[-1] / STATE).read_text(encoding="utf-8"))
    return Resumed(step=int(state["step"]), folder=folders[-1])


@contextmanager
def saying_newest(run: Path, then: str = "") -> Iterator[None]:
    """An EngineError from inside says, too, which checkpoint of the run is the newest whole one; `then` follows."""
    try:
        yield
    except EngineError as error:
        whole = latest_checkpoint(run)
        rest = f"the newest whole checkpoint is {whole.folder}{then}" if whole else "no checkpoint was written yet"
        raise EngineError(f"{error}; {rest}") from None


def _checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    found = ((STEP.fullmatch(folder.name), folder) for folder in (run / CHECKPOINTS).glob("step-*"))
    return [folder for _, folder in sorted((int(match[1]), folder) for match, folder in found if match)]


def _save(
    run: Path,
    done: int,
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    trained: list[nn.Parameter],
    write_files: WriteFiles,
    config: TrainConfig,
    parallel: Parallel,
) -> None:
    """Write the checkpoint of one step, and drop the oldest ones beyond `keep`. Every process takes part."""
    accelerator: Accelerator = parallel.accelerator
    folder = run / CHECKPOINTS / f"step-{done:06d}"
    model: AGVAS = accelerator.unwrap_model(module).model

    def write(temporary: Path) -> None:
        write_files(values, done, temporary)
        if parallel.deepspeed:
            parallel.move_state(run / CHECKPOINTS, temporary)
        else:
            save_tensors(_optimizer_tensors(optimizers, trained), temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps({"step": done}) + "\n", encoding="utf-8")

    if parallel.deepspeed:
        parallel.save_state(module, run / CHECKPOINTS)
    values = parallel.trained_values(model)
    with parallel.gathered([] if config.lora else [p for p in model.parameters() if not p.requires_grad]):
        if accelerator.is_main_process:
            try:
                write_folder(folder, write)
            finally:
                shutil.rmtree(run / CHECKPOINTS / UNFINISHED, ignore_errors=True)
            for old in _checkpoints(run)[: -config.keep] if config.keep else ():
                _drop(old)
    accelerator.wait_for_everyone()


def _drop(checkpoint: Path) -> None:
    """Remove a checkpoint, hidden first so that it is never seen in part; one that stays is told of, and no more."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.old")  # the next start of the run tries again
    try:
        checkpoint.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        left = hidden if hidden.exists() else checkpoint
        console.note(f"{left}: cannot remove this old checkpoint: {error.strerror}; the training goes on")


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer], trained: list[nn.Parameter]) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, parameter in enumerate(trained)
        for optimizer in optimizers
        if parameter in optimizer.state
        for name, value in optimizer.state[parameter].items()
    }


def _load_optimizers(optimizers: list[torch.optim.Optimizer], trained: list[nn.Parameter], folder: Path) -> None:
    owner = {parameter: each for each in optimizers for group in each.param_groups for parameter in group["params"]}
    for key, lazy in open_weights(folder / OPTIMIZER).items():
        index, name = key.split(".", 1)
        parameter, value = trained[int(index)], lazy.read()
        state = owner[parameter].state[parameter]
        state[name] = value.clone() if name == "step" else value.to(parameter.device, copy=True)
