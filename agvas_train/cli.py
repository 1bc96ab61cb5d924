"""`agvas-train`: train a model, go on with a run, merge LoRA adapters into a clean checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from agvas_runtime import console
from agvas_runtime.errors import InputError

if TYPE_CHECKING:
    from agvas_train.config import TrainConfig

app = console.make_app("Train AG-VAS.\n\nExample: agvas-train --preset tiny --out runs/tiny")


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder of the run: metrics, checkpoints, final checkpoint.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny, 0.5b or 7b.")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with training options; options here win.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step and process.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that make batches.")] = None,
    base: Annotated[Path | None, typer.Option("--from", help="Checkpoint to start from.")] = None,
    lora: Annotated[
        int | None, typer.Option(min=1, help="Train LoRA adapters of this rank on the --from checkpoint.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a preset from scratch, or a checkpoint further."""
    if context.invoked_subcommand:
        return
    if out is None:
        raise InputError("--out is missing: name the folder of the run")
    given = {
        "preset": preset,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "save_every": save_every,
        "workers": workers,
        "base": str(base) if base else None,
        "lora": lora,
    }
    from agvas_train.runs import run_training  # imports torch: only when there is work

    settings = _settings(config, out if resume else None, {k: v for k, v in given.items() if v is not None})
    terminal = Console(stderr=True)
    with Progress(console=terminal, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("training", total=settings.steps)

        def report(step: int, figures: dict[str, float]) -> None:
            text = " ".join(f"{name} {figures[name]:.3f}" for name in ("loss", "text", "bce", "dice"))
            progress.update(task, completed=step + 1, description=text)
            if not terminal.is_terminal and (step + 1) % 50 == 0:
                console.note(f"step {step + 1}/{settings.steps}: {text} ({figures['seconds']:.0f} s)")

        final = run_training(out, settings, resume=resume, report=report)
    print(f"wrote {final}")


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="Adapter folder: a LoRA run's `final` or one of its checkpoints.")],
    out: Annotated[Path, typer.Option(help="Folder of the merged checkpoint; must be new.")],
    base: Annotated[Path | None, typer.Option(help="Folder of the base, if it has moved.")] = None,
) -> None:
    """Merge LoRA adapters into their base: a clean checkpoint folder. Example: agvas-train merge runs/l --out m."""
    from agvas_train.checkpoint import save_checkpoint
    from agvas_train.lora import merge as merge_adapters

    folder = run / "final" if (run / "final").is_dir() else run
    save_checkpoint(merge_adapters(folder, base), out)
    print(f"wrote {out}")


def _settings(file: Path | None, resumed: Path | None, given: dict[str, object]) -> TrainConfig:
    from agvas_train.config import TrainConfig

    recorded: dict[str, object] = {}
    source = file or (resumed / "train.json" if resumed else None)
    if source is not None:
        try:
            recorded = json.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{source}: cannot be read: {error}") from None
    if not isinstance(recorded, dict):
        raise InputError(f"{source}: found a {type(recorded).__name__}, expected an object of training options")
    try:
        return TrainConfig.model_validate({**recorded, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"training options: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def main() -> None:
    """Entry point of `agvas-train`."""
    console.run(app)
