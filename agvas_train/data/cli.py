"""agvas-data: synthetic images, instruction data, what of the public sets is there and what training draws of it."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.files import write_whole
from agvas_train.data.cli_check import check
from agvas_train.data.cli_instruct import instruct
from agvas_train.data.cli_mixture import mixture
from agvas_train.data.cli_standardize import standardize
from agvas_train.data.mixture.sheet import FORMATS, check_sheet
from agvas_train.data.synth import Families, SynthConfig, generate
from agvas_train.data.synth.folder import FolderError, write_folder
from agvas_train.data.synth.preview import contact_sheet

app = typer.Typer(help="Make data for training and evaluation.", no_args_is_help=True, add_completion=False)
app.command()(check)
app.command()(mixture)
app.command()(instruct)
app.command()(standardize)


@app.callback()
def _commands() -> None:
    """Make data for training and evaluation."""


@app.command()
def synth(
    out: Annotated[
        Path | None, typer.Argument(help="New or empty folder for the data set.", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Stream to draw from; recipes train on stream 0.")] = 1_000_000,
    normal_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of images without defects.")] = 0.45,
    families: Annotated[
        Families, typer.Option(help="Surfaces and defects that training draws, those that it never does, or all.")
    ] = Families.TRAINING,
    preview: Annotated[
        Path | None,
        typer.Option(
            help="Also write a contact sheet (PNG, JPEG) of the first 64 images, masks outlined.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as one JSON object.")] = False,
) -> None:
    """Write synthetic images with defect masks and captions as an MVTec folder (and a preview, if asked)."""
    if out is None and preview is None:
        _fail("nothing to do: give a folder OUT, or --preview FILE")
    config = replace(SynthConfig(), normal_share=normal_share, families=families)
    counts: dict[str, int] = {}
    try:
        if preview is not None:
            check_sheet(preview)
        if out is not None:
            counts = _with_progress(count, lambda step: write_folder(out, count, seed, config, step))
        if preview is not None:
            samples = [generate(seed, index, config) for index in range(min(count, 64))]
            held = BytesIO()
            contact_sheet(samples).save(held, FORMATS[preview.suffix.lower()])
            write_whole(preview, held.getvalue())
    except (FolderError, InputError) as error:
        _fail(str(error))
    if as_json:
        print(json.dumps(counts | {"out": str(out) if out else None, "preview": str(preview) if preview else None}))
    elif counts:
        print(f"{out}: {counts['images']} images ({counts['normal']} normal) of {counts['categories']} categories")


def _with_progress(count: int, work: Callable[[Callable[[], None]], dict[str, int]]) -> dict[str, int]:
    """Run the work with a progress bar on stderr, silent when that is no terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Drawing", total=count)
        return work(lambda: progress.advance(task))


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the command."""
    console.leave_at_sigterm()
    console.run(app)


if __name__ == "__main__":
    sys.exit(main())
