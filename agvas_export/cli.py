"""`agvas-export`: a merged checkpoint becomes a bundle, and the proof that both compute the same stands in it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.errors import InputError

if TYPE_CHECKING:
    from agvas_export.parity import Parity
    from agvas_runtime.manifest import Manifest

app = console.make_app("Export a merged checkpoint to a bundle.")
app.info.no_args_is_help = False

DEFAULT_OUT = Path("bundle")
MOST_PATH_CHARACTERS = 4096


@app.command()
def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint folder; the embedded one when left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the bundle; must be new or empty.")] = DEFAULT_OUT,
    trt: Annotated[str | None, typer.Option(help="Native TensorRT engines: fp16, int8 or fp8.")] = None,
    defer: Annotated[
        bool, typer.Option("--defer", help="With --trt: leave the building of engines to their own device.")
    ] = False,
    encoders: Annotated[
        str | None, typer.Option(help="Encoders and SPAM without --trt: fp32, fp16 (the decoder too) or int8.")
    ] = None,
    llm: Annotated[str | None, typer.Option(help="The language model: fp32, fp16, int8, int4 or fp8.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of images to calibrate 8-bit engines, or int4 by GPTQ, with.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(help="Folder of images or data set to prove the parity on, too.")
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset, 17 to 23. Default: 23; for TensorRT 17, or 19 in 8 bits.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the manifest; the folder's name when left out.")] = None,
    targets: Annotated[bool, typer.Option("--targets", help="Show which options go together, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest, parity included, as JSON.")] = False,
) -> None:
    r"""Export a merged checkpoint to graphs for the torch-free runtime, and prove that they compute the same.

    Every graph and the whole bundle are compared with PyTorch on images; when a figure is past the limit of its
    precision, nothing is written and the exit code is 1. Without a GPU, --trt needs --defer: the engines are then made
    by `agvas-runtime build BUNDLE` on the device that is to run them.

    \b
    Examples:
      agvas-export                                             # the embedded model to ./bundle
      agvas-export runs/merged --out bundle-int8 --llm int8 --encoders int8
      agvas-export runs/merged --out line-3 --trt fp16 --defer
      agvas-export runs/merged --out line-3 --trt fp8 --calibration good-and-bad-parts/
    """
    from agvas_export.targets import resolve
    from agvas_runtime.prompts import check_text

    if targets and as_json:
        raise InputError("can't use both --targets and --json; choose one")
    if targets:
        _print_targets()
        return
    check_text("--out", str(out.absolute()), MOST_PATH_CHARACTERS)
    chosen = resolve(
        trt=trt,
        defer=defer,
        encoders=encoders,
        llm=llm,
        calibration=calibration is not None,
        opset=opset,
    )
    if trt and not defer:
        _require_device(trt)
    # PyTorch's threads wait by spinning: where anybody else needs a core too, that costs many times the work itself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from agvas_export.export import export_bundle  # imports torch: only when there is work
    from agvas_train.checkpoint import default_checkpoint_path, require_new
    from agvas_train.lora import ADAPTER

    source = checkpoint or default_checkpoint_path()
    if (source / ADAPTER).is_file() or (source / "final" / ADAPTER).is_file():
        raise InputError(f"{source}: holds adapters; merge them first: agvas-train merge {source} --out FOLDER")
    require_new(out)
    began = time.perf_counter()
    manifest, parity = export_bundle(
        source,
        out,
        name=name or out.resolve().name,
        targets=chosen,
        verify=verify,
        calibration=calibration,
        step=lambda text: console.note(f"{time.perf_counter() - began:6.1f} s  {text}"),
    )
    if as_json:
        console.print_json(manifest.model_dump(mode="json"))
    else:
        _print_summary(manifest, parity)
        total = sum(entry.size for entry in manifest.files.values())
        print(f"wrote {out} ({total / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s)")
    if trt and defer:
        console.note(f"engines: agvas-runtime build {out}, on the device that is to run them")
    elif trt:
        _build(out)


def _require_device(trt: str) -> None:
    """Raise EngineError, naming the way out, where no engine can be built here."""
    from agvas_runtime.engines.device import probe
    from agvas_runtime.errors import EngineError

    try:
        probe()
    except EngineError as error:
        raise EngineError(
            f"--trt {trt}: {error}. `--trt {trt} --defer` writes the typed graphs and the build plan here; "
            "`agvas-runtime build BUNDLE` makes the engines on the device that is to run them"
        ) from None


def _build(bundle: Path) -> None:
    from agvas_runtime.bundle import Bundle
    from agvas_runtime.cli_build import build_progress
    from agvas_runtime.engines.store import build_engines
    from agvas_runtime.errors import EngineError

    try:
        with build_progress() as report:
            for built in build_engines(Bundle.open(bundle), report=report):
                console.note(f"engine {built.graph}: {built.entry.size / 1e6:.2f} MB, {built.entry.seconds:.1f} s")
    except EngineError as error:
        raise EngineError(f"{error}; the bundle stays, go on with: agvas-runtime build {bundle}") from None


def _print_summary(manifest: Manifest, parity: Parity) -> None:
    table = Table(box=None, header_style="bold")
    for column in ("graph", "precision", "MB", "largest error", "relative", "limit", "anchor states", "largest half"):
        table.add_column(column, justify="left" if column in ("graph", "precision") else "right")
    counted: set[str] = set()
    for graph, spec in manifest.graphs.items():
        files = [file for file in (spec.file, *spec.data) if file not in counted]
        counted.update(files)
        figures = parity.graphs[graph]
        table.add_row(
            graph,
            spec.precision,
            f"{sum(manifest.files[file].size for file in files) / 1e6:.2f}",
            f"{figures.largest_error:.1e}",
            f"{figures.relative_error:.1e}",
            "none" if figures.limit is None else f"{figures.limit:g}",
            "" if figures.state_error is None else f"{figures.state_error:.1e}",
            "" if figures.peak is None else f"{figures.peak:.4g}",
        )
    console.output().print(table)
    whole = parity.whole
    print(
        f"{whole.images} images, {whole.segmented_images} with masks to compare: {whole.other_answers:.1%} other "
        f"answers, {whole.masks}, anomaly score by at most "
        f"{whole.score_change:.1e}{'; not judged, the weights are random' if parity.random_weights else ''}"
    )


def _print_targets() -> None:
    from agvas_export.targets import TABLE

    table = Table(box=None, header_style="bold")
    for column in ("option", "encoders", "language model", "decoder", "runs in", "and"):
        table.add_column(column)
    for row in TABLE:
        table.add_row(*row)
    console.output().print(table)


def main() -> None:
    """Entry point of `agvas-export`."""
    console.run(app)
