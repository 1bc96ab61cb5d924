"""`agvas-export`: a merged checkpoint becomes a bundle, and the proof that both compute the same stands in it."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from agvas_runtime import console
from agvas_runtime.errors import InputError

app = console.make_app("Export a merged checkpoint to a bundle.")


class Precision(str, Enum):
    """Of a part's graphs."""

    FP32 = "fp32"
    INT8 = "int8"


@app.command()
def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint folder; the embedded one when left out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; must be new or empty.")] = None,
    encoders: Annotated[Precision, typer.Option(help="Both encoders and SPAM.")] = Precision.FP32,
    llm: Annotated[Precision, typer.Option(help="The language model.")] = Precision.FP32,
    verify: Annotated[
        Path | None, typer.Option(help="Folder of images or data set to prove the parity on, too.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the manifest; the folder's name when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the parity and the files as JSON.")] = False,
) -> None:
    r"""Export a merged checkpoint to ONNX graphs for the torch-free runtime.

    ONNX Runtime is compared with PyTorch, graph by graph and end to end; when a figure is over its limit, nothing is
    written and the exit code is 1.

    \b
    Examples:
      agvas-export runs/merged --out bundle
      agvas-export runs/merged --out bundle-int8 --llm int8 --encoders int8
    """
    from agvas_export.export import export_bundle  # imports torch: only when there is work
    from agvas_train.checkpoint import default_checkpoint_path
    from agvas_train.lora import ADAPTER

    if out is None:
        raise InputError("--out is missing: name the folder of the bundle")
    source = checkpoint or default_checkpoint_path()
    if (source / ADAPTER).is_file() or (source / "final" / ADAPTER).is_file():
        raise InputError(f"{source}: holds adapters; merge them first: agvas-train merge {source} --out FOLDER")
    began = time.perf_counter()
    manifest, parity = export_bundle(
        source,
        out,
        name=name or out.resolve().name,
        precision={"encoders": encoders.value, "llm": llm.value},
        verify=verify,
        step=lambda text: console.note(f"{time.perf_counter() - began:6.1f} s  {text}"),
    )
    if as_json:
        console.print_json(manifest.model_dump(mode="json"))
        return
    for graph, spec in manifest.graphs.items():
        size = manifest.files[spec.file].size
        print(f"{graph:17} {spec.precision}  {size / 1e6:6.2f} MB  largest error {parity.graph_error[graph]:.1e}")
    print(
        f"{parity.images} images, {parity.segmented_images} with maps to compare: "
        f"{parity.other_answers:.1%} other answers, {parity.mask_disagreement:.2e} of the "
        f"mask's pixels differ, maps by {parity.map_difference:.1e} on average and by at most "
        f"{parity.largest_map_difference:.1e}"
    )
    total = sum(entry.size for entry in manifest.files.values())
    print(f"wrote {out} ({total / 1e6:.1f} MB, {time.perf_counter() - began:.0f} s)")


def main() -> None:
    """Entry point of `agvas-export`."""
    console.run(app)
