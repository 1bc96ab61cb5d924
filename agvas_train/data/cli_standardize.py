"""`agvas-data standardize`: a test set of the paper, from its original download to MVTec's layout and a meta.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agvas_runtime import console

SHOWN = 5
"""Of the files left out."""


def standardize(
    name: Annotated[
        str,
        typer.Argument(metavar="SET", help="mvtec, visa, ksdd2, rsdd, isic, clinicdb, colondb, btad or dagm."),
    ],
    source: Annotated[Path, typer.Argument(help="The original download, unpacked.")],
    out: Annotated[Path, typer.Option(metavar="ROOT", help="The paper's tree; the set goes to ROOT/anomaly_seg/.")],
    seed: Annotated[int, typer.Option(min=0, help="Chooses normal images, and where pictures are cut.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    r"""Bring a test set to MVTec's layout with a meta.json, as evaluation and training read it.

    What was taken, cut and chosen stands in standardize.json beside it. The download is not changed.

    \b
    Example: agvas-data standardize ksdd2 downloads/KolektorSDD2 --out data
    """
    from agvas_train.data.standardize import run

    report = run.standardize(name.lower(), source, out, seed)
    for path, reason in list(report["left_out"].items())[:SHOWN]:
        console.note(f"left out: {path}: {reason}")
    if (more := len(report["left_out"]) - SHOWN) > 0:
        console.note(f"left out: and {more} more files (standardize.json names all)")
    if as_json:
        console.print_json(report)
    else:
        print(_words(report))


def _words(report: dict[str, Any]) -> str:
    words = "{images} test images, {anomalous} of them defective, of {categories} categories".format(**report["counts"])
    paper = "the paper's file lists {images}, {anomalous} of them defective".format(**report["paper"])
    return f"{report['place']}: {words}; {paper}"
