"""`agvas-runtime roofline`: a bundle's arithmetic beside what this machine can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agvas_runtime import console


def roofline(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder; the embedded tiny bundle by default.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of the engine; all cores by default.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each graph.")] = 50,
    plot: Annotated[Path | None, typer.Option(help="Draw roofs and parts into this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    r"""Show FLOPs and bytes of every part and of a frame, and what share of this machine's own peak they reach.

    The graphs run in ONNX Runtime on the CPU, and so do the products whose speed is the peak. A part's roof is the
    slower of two: its arithmetic at that peak, its bytes at the speed of memory.

    \b
    Examples:
      agvas-runtime roofline
      agvas-runtime roofline bundles/int8 --threads 1 --plot roofline.png
      agvas-runtime roofline --runs 200 --json
    """
    from agvas_runtime.bundle import Bundle, default_bundle_path
    from agvas_runtime.files import check_place, write_whole
    from agvas_runtime.roofline.plot import draw_plot
    from agvas_runtime.roofline.report import measure, print_report

    if plot is not None:
        check_place(plot)
    report = measure(Bundle.open(bundle or default_bundle_path()), threads=threads, runs=runs)
    try:
        if plot is not None:
            write_whole(plot, draw_plot(report))
            console.note(f"written: {plot}")
    finally:
        if as_json:
            console.print_json(report)
        else:
            print_report(report)
