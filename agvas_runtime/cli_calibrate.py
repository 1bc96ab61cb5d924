"""`agvas-runtime calibrate`: a recipe's threshold and smallest area from normal images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LARGEST = 2**32 - 1
"""What the protocol has room for."""


def calibrate(
    images: Annotated[list[Path], typer.Argument(metavar="NORMAL...", help="Images without defects, or folders.")],
    false_reject: Annotated[float, typer.Option(help="Share of normal parts that may be rejected.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="Of the bound on that share.")] = 0.95,
    recipe: Annotated[
        Path | None, typer.Option(help="NAME.yaml: asks the model as it says, and is given both values.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder; the embedded tiny bundle by default.")] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="Lowest threshold to choose; the bundle's own.")
    ] = None,
    min_area: Annotated[int, typer.Option(min=1, max=LARGEST, help="Smallest min_area_px to choose.")] = 1,
    max_area: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST, help="Largest: the smallest defect to be found, in pixels; 1 % of the smallest frame."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw reject rates against thresholds into this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    engine: Annotated[str, typer.Option(help="ort, ort-cuda, tensorrt or auto.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads of the engine; all cores by default.")
    ] = None,
) -> None:
    r"""Find the threshold and the smallest area at which no more normal parts are rejected than you want.

    Needs images of normal parts only, each of another part: 299 to show 1 % at 95 % confidence. The smallest area grows
    up to --max-area at the bundle's threshold; only where that does not do, the threshold rises. Exits with 1, and
    writes no recipe, where even that does not do.

    \b
    Examples:
      agvas-runtime calibrate normal/ --recipe recipes/bracket.yaml
      agvas-runtime calibrate normal/ --false-reject 0.005 --max-area 400 --plot rates.png
      agvas-runtime calibrate monday/ tuesday/ --recipe recipes/default.yaml --json
    """
    from agvas_runtime.calibrate.run import Engine, Wish, run

    wish = Wish(false_reject, confidence, threshold, min_area, max_area)
    run(images, wish, recipe, Engine(bundle, engine, threads), plot, as_json=as_json)
