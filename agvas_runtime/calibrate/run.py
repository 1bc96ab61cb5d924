"""The command from its beginning to its end: images in, figures out, a plot, a recipe. Nothing is written too early."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agvas_runtime import console
from agvas_runtime.calibrate.areas import GRID, Areas, collect, measure
from agvas_runtime.calibrate.choose import Line
from agvas_runtime.calibrate.plot import draw_plot
from agvas_runtime.calibrate.recipe_text import RecipeText
from agvas_runtime.calibrate.report import Report, calibrated, conclusion, print_report
from agvas_runtime.engines.choice import open_bundle
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import check_place, write_whole
from agvas_runtime.modes import Mode
from agvas_runtime.server.engine.task import Task
from agvas_runtime.verdict import AnswerKind

USUAL_SHARE = 0.01
"""Of the smallest frame's pixels: the largest `min_area_px` that is chosen where nobody says one."""


@dataclass(frozen=True)
class Wish:
    """What is wanted. Raises InputError naming the option that is wrong."""

    false_reject: float
    confidence: float = 0.95
    threshold: float | None = None
    """To begin with; the bundle's where None."""
    min_area: int = 1
    max_area: int | None = None

    def __post_init__(self) -> None:
        for option, found in (("--false-reject", self.false_reject), ("--confidence", self.confidence)):
            if not 0 < found < 1:
                raise InputError(f"{option}: found {found:g}, expected a share above 0 and below 1")
        if self.max_area is not None and self.max_area < self.min_area:
            raise InputError(f"--max-area: found {self.max_area}, expected at least --min-area, {self.min_area}")


@dataclass(frozen=True)
class Engine:
    """What runs the model."""

    bundle: Path | None = None
    name: str = "auto"
    threads: int | None = None


def run(
    inputs: list[Path],
    wish: Wish,
    recipe: Path | None = None,
    engine: Engine = Engine(),
    plot: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Calibrate, write the plot, put both values into the recipe, and print the report.

    Raises:
        InputError: an image, the recipe or the wish cannot be used; nothing was written.
        EngineError: no setting will do, or a graph or the disk failed; the recipe is as it was.
    """
    if plot is not None:
        check_place(plot)  # what cannot be written is said at once
    text = None if recipe is None else RecipeText(recipe)
    if text is not None:
        check_place(text.path)
        text.with_values({"threshold": 0.5, "min_area_px": 1})
    task = Task() if text is None else text.task()
    if task.request.mode is Mode.CONVERSATION:
        raise InputError(f"{recipe}: mode: found conversation, which has no verdict, expected a mode that inspects")
    images, copies = collect(inputs)
    areas, start = _measured(images, task, engine, wish.threshold)
    if AnswerKind.SEGMENTED not in areas.kinds and AnswerKind.REJECTED not in areas.kinds:
        raise EngineError(f"none of {len(images)} images got an answer that is a verdict; nothing was written")
    usual = max(wish.min_area, int(USUAL_SHARE * areas.pixels.min()))
    line = Line(start, wish.min_area, usual if wish.max_area is None else wish.max_area)
    report = calibrated(areas, line, wish.false_reject, wish.confidence, task.recipe.on_no_answer)
    report["copies"] = copies
    try:
        if plot is not None:
            write_whole(plot, draw_plot(report))
            console.note(f"written: {plot}")
        if not report["reached"]:
            raise EngineError(f"{conclusion(report)}; no recipe was written: a larger --max-area may do")
        if text is not None:
            text.write(text.with_values({"threshold": report["threshold"], "min_area_px": report["min_area_px"]}))
            console.note(f"written: {text.path}")
    finally:
        _show(report, as_json)  # last: who reads it may leave before its end


def _measured(images: list[Path], task: Task, engine: Engine, threshold: float | None) -> tuple[Areas, float]:
    """The images' areas and the threshold to begin with."""
    segmenter = open_bundle(engine.name, engine.bundle, engine.threads)
    try:
        start = segmenter.manifest.model.threshold if threshold is None else threshold
        return measure(segmenter, images, task, np.array(sorted({start, *GRID}))), start
    finally:
        with suppress(EngineError):
            segmenter.close()


def _show(report: Report, as_json: bool) -> None:
    if as_json:
        console.print_json(report)
    else:
        print_report(report)
