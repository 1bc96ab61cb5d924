"""`agvas-train`: train a model, go on with a run, make a base of released backbones, merge LoRA adapters."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.manifest import weights_note
from agvas_train.cli_init import info, init

if TYPE_CHECKING:
    from agvas_train.config import TrainConfig

app = console.make_app("Train AG-VAS.\n\nExample: agvas-train --preset tiny --out runs/tiny")
app.command()(init)
app.command()(info)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder of the run: metrics, checkpoints, final checkpoint.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny, 0.5b or 7b.")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="Recipe: a YAML file, or a shipped one (tiny, tiny-gpu, tiny-more, tiny-words, tiny-further, "
            "tiny-mixture, 0.5b, 7b); options here win."
        ),
    ] = None,
    base: Annotated[Path | None, typer.Option("--from", help="Checkpoint to start from.")] = None,
    lora: Annotated[
        int | None, typer.Option(min=1, help="Train LoRA adapters of this rank on the --from checkpoint.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT", help="Folder of the public data sets; none: synthetic images, whatever the recipe says."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples of a step, over all processes.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Samples a process computes at a time.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.")] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory, a third more time."),
    ] = None,
    deepspeed: Annotated[
        str | None, typer.Option(help="DeepSpeed configuration (JSON); none: without, whatever the recipe says.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and data.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints that stay, the newest.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that make batches.")] = None,
    overfit: Annotated[
        bool | None,
        typer.Option("--overfit/--no-overfit", help="See the first step's samples in every step: can it learn at all?"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    r"""Train a preset from scratch, or a checkpoint further.

    Several processes: torchrun --nproc-per-node 4 -m agvas_train ...

    \b
    Examples:
      agvas-train --preset tiny --out runs/tiny
      agvas-train --from checkpoints/0.5b --lora 16 --precision bf16 --out runs/edge
      agvas-train --config 7b --dry-run
    """
    if context.invoked_subcommand:
        if option := _given(context):
            command = context.invoked_subcommand
            raise InputError(f"{option}: found it in front of {command}, expected options of {command} behind it")
        return
    given = {
        "preset": preset,
        "base": str(base.resolve()) if base else None,
        "lora": lora,
        "steps": steps,
        "batch_size": batch_size,
        "micro_batch": micro_batch,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "deepspeed": str(Path(deepspeed).resolve()) if deepspeed not in (None, "none") else deepspeed,
        "learning_rate": learning_rate,
        "seed": seed,
        "save_every": save_every,
        "keep": keep,
        "workers": workers,
        "overfit": overfit,
    }
    from agvas_train.options import recipe_path  # imports torch: only when there is work

    recipe = recipe_path(config) if config else None
    if out is None and (resume or not dry_run):
        raise InputError("--out is missing: name the folder of the run")
    settings = _settings(recipe, out if resume else None, {k: v for k, v in given.items() if v is not None}, data)
    if dry_run:
        _dry_run(settings, as_json)
    elif out is not None:
        _run(settings, out, resume, as_json)


def _given(context: typer.Context) -> str | None:
    """The name of the first option that the command line gives."""
    options = {param.name: param.opts[0] for param in context.command.params}
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return next((options[name] for name, source in sources if source and source.name == "COMMANDLINE"), None)


def _settings(recipe: Path | None, resumed: Path | None, given: dict[str, Any], data: str | None) -> TrainConfig:
    from agvas_train.options import make_config, read_options, with_data_root

    source = recipe or (resumed / "train.json" if resumed else None)
    recorded = with_data_root(read_options(source) if source else {}, data)
    return make_config(recorded, given=given, source=str(source) if source else None)


def _dry_run(settings: TrainConfig, as_json: bool) -> None:
    from agvas_train.dry_run import plan, print_plan

    found = plan(settings)
    if as_json:
        console.print_json(found)
    else:
        print_plan(found)


def _run(settings: TrainConfig, out: Path, resume: bool, as_json: bool) -> None:
    terminal = Console(stderr=True)
    shown = terminal.is_terminal and os.environ.get("RANK", "0") == "0"
    last: dict[str, float] = {}
    with Progress(console=terminal, disable=not shown) as progress:
        task = progress.add_task("training", total=settings.steps)

        def report(step: int, figures: dict[str, float]) -> None:
            last.update(figures, step=step + 1)
            text = " ".join(f"{name} {figures[name]:.3f}" for name in ("loss", "text", "bce", "dice"))
            progress.update(task, completed=step + 1, description=text)
            if not terminal.is_terminal and (step + 1) % 50 == 0:
                console.note(f"step {step + 1}/{settings.steps}: {text} ({figures['seconds']:.0f} s)")

        with redirect_stdout(sys.stderr):  # DeepSpeed, where it is installed, prints; stdout is for the result
            from agvas_train.runs import run_training

            final = run_training(out, settings, resume=resume, report=report)
    if os.environ.get("RANK", "0") != "0":
        return  # the first process reports for all
    made = json.loads((final / "provenance.json").read_text(encoding="utf-8"))
    note = weights_note(made["random_weights"], None)
    if as_json:
        console.print_json({"final": str(final), "figures": last, "weights": note})
        return
    if note:
        print(note)
    print(f"wrote {final}")


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="A LoRA run, its `final` or one of its checkpoints.")],
    out: Annotated[Path, typer.Option(help="Folder of the merged checkpoint; must be new.")],
    base: Annotated[Path | None, typer.Option(help="Folder of the base, if it has moved.")] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Leave unchanged tensors in the base's files; record their hashes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Merge LoRA adapters into their base, shard by shard. Example: agvas-train merge runs/l --out m."""
    from agvas_train.checkpoint import require_new, write_checkpoint
    from agvas_train.cli_init import say_written
    from agvas_train.folders import adapter_folder
    from agvas_train.lora import merge as merge_adapters

    require_new(out)
    merged, tensors = merge_adapters(adapter_folder(run), base)
    write_checkpoint(merged, tensors, out, by_reference=by_reference, step=console.note)
    say_written(out, merged, as_json)


def main() -> None:
    """Entry point of `agvas-train`."""
    console.leave_at_sigterm()
    console.run(app)
