"""The training loop: steps, schedule, checkpoints, resuming. It knows nothing of how data or models are made."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from agvas_runtime.errors import InputError
from agvas_train.config import TrainConfig
from agvas_train.data.batch import Batch
from agvas_train.losses import BCE_WEIGHT, DICE_WEIGHT, segmentation_loss, text_loss
from agvas_train.model import AGVAS
from agvas_train.model.agmd import map_logits

OPTIMIZER, STATE, METRICS = "optimizer.safetensors", "state.json", "metrics.jsonl"

WriteFiles = Callable[[AGVAS, int, Path], None]
"""Writes the model's files of one step into a folder."""
Report = Callable[[int, dict[str, float]], None]
"""Called after every step with its number and its figures."""


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: the step to do next, and the folder that holds the optimiser's state."""

    step: int
    folder: Path


class TrainingStep(nn.Module):
    """The forward pass of training as one module, so that it can be wrapped for several processes."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch: text, bce, dice, and loss, their weighted sum."""
        model, count = self.model, len(batch.texts)
        visual = model.encode(batch.semantic, batch.pixel)
        before = model.embed(batch.before).expand(count, -1, -1)
        embeds = torch.cat((before, visual.tokens, model.embed(batch.texts)), dim=1)
        first_text = before.shape[1] + visual.tokens.shape[1]
        states = model.hidden_states(embeds)[:, first_text:]  # B, L, d
        logits = model.logits(states[batch.predictor_sample, batch.predictor_position])
        text = text_loss(logits, batch.predicted, batch.predictor_sample, count)
        bce, dice = text.new_zeros(()), text.new_zeros(())
        for present, samples in batch.anchor_samples.items():
            anchors = states[samples[:, None], batch.anchor_positions[present]]  # K, A, d
            products = model.products(anchors, visual.pixel[samples], present).float()
            part = segmentation_loss(
                map_logits(products, present), batch.target[samples], batch.valid[samples], present
            )
            share = len(samples) / count
            bce, dice = bce + share * part[0], dice + share * part[1]
        loss = text + BCE_WEIGHT * bce + DICE_WEIGHT * dice
        return {"loss": loss, "text": text, "bce": bce, "dice": dice}


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then linear decay to zero (DeepSpeed's WarmupDecayLR with linear warm-up)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = (config.steps - step) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * max(left, 0.0)


def train(
    model: AGVAS,
    batches: Iterable[Batch],
    config: TrainConfig,
    *,
    run: Path,
    write_files: WriteFiles,
    report: Report,
    resumed: Resumed | None,
    accelerator: Accelerator,
) -> None:
    """Train the model's trainable parameters in place, from `resumed` (or step 0) to `config.steps`.

    Writes `metrics.jsonl`, TensorBoard scalars and `checkpoints/step-NNNNNN` below `run`.
    """
    torch.set_flush_denormal(True)  # vanishing gradients of the maps would make CPU steps several times slower
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    start = 0
    if resumed:
        start = resumed.step
        _load_optimizer(optimizer, trained, resumed.folder)
    step_module, optimizer = accelerator.prepare(TrainingStep(model.train()), optimizer)
    main = accelerator.is_main_process
    if main:
        _cut_metrics(run, start)
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=start) if main else None
    began = time.perf_counter()
    for step, batch in zip(range(start, config.steps), batches, strict=False):
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = step_module(batch.to(accelerator.device))
        accelerator.backward(losses["loss"])
        norm = accelerator.clip_grad_norm_(trained, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not main:
            continue
        figures = {name: float(value.detach()) for name, value in losses.items()}
        if not all(map(torch.isfinite, losses.values())):
            raise InputError(f"step {step}: the loss is {figures['loss']}; lower the learning rate")
        figures |= {"learning_rate": rate, "gradient_norm": float(norm)}
        figures["seconds"] = time.perf_counter() - began
        _record(run, writer, step, figures)
        report(step, figures)
        done = step + 1
        if done % config.save_every == 0 or done == config.steps:
            _save(run, done, accelerator.unwrap_model(step_module).model, optimizer, trained, write_files)
    if writer:
        writer.close()
    model.eval()


def latest_checkpoint(run: Path) -> Resumed | None:
    """The newest complete checkpoint of a run folder."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    if not folders:
        return None
    state = json.loads((folders[-1] / STATE).read_text(encoding="utf-8"))
    return Resumed(step=int(state["step"]), folder=folders[-1])


def _cut_metrics(run: Path, start: int) -> None:
    """Drop the lines of steps that a resumed run does again."""
    path = run / METRICS
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)["step"] < start), encoding="utf-8")


def _record(run: Path, writer: SummaryWriter | None, step: int, figures: dict[str, float]) -> None:
    with (run / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")
    if writer:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)


def _save(
    run: Path,
    done: int,
    model: AGVAS,
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    write_files: WriteFiles,
) -> None:
    folder = run / "checkpoints" / f"step-{done:06d}"
    temporary = folder.with_name("." + folder.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_files(model, done, temporary)
    tensors = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    for index, parameter in enumerate(trained):
        for name, value in optimizer.state[parameter].items():
            tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
    save_file(tensors, temporary / OPTIMIZER)
    (temporary / STATE).write_text(json.dumps({"step": done}) + "\n", encoding="utf-8")
    for path in temporary.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _load_optimizer(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], folder: Path) -> None:
    tensors = load_file(folder / OPTIMIZER)
    torch.set_rng_state(tensors.pop("rng"))
    if "cuda_rng" in tensors:
        torch.cuda.set_rng_state(tensors.pop("cuda_rng"))
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = trained[int(index)]
        optimizer.state[parameter][name] = value if name == "step" else value.to(parameter.device)
