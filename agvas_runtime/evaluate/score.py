"""Scoring: every image at its own size, a rejected image is a zero map, NO_ANSWER is one too and is counted apart.

Knows no command line and no pictures; whoever wants to draw gets every scored image by callback.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from agvas_runtime import metrics
from agvas_runtime.datasets import Item, load_mask
from agvas_runtime.engines.registry import Segments, ask
from agvas_runtime.modes import Request
from agvas_runtime.verdict import AnswerKind, Verdict

FIGURES = ("ap", "f1_max", "iou_ano", "iou_nor")


@dataclass(frozen=True)
class Scored:
    """One image with what the model said and what is true."""

    item: Item
    truth: NDArray[np.bool_]
    """bool [H,W]."""
    probability: NDArray[np.float32]
    """float32 [H,W] in [0,1]; zeros when rejected or without an answer."""
    mask: NDArray[np.bool_]
    """bool [H,W]."""
    outcome: str
    """The answer's kind, or "no answer"."""
    reason: str
    elapsed_ms: float
    instruction: str
    """What the model was asked."""


@dataclass
class Row:
    """One category's figures, in percent (NaN where undefined), and counts."""

    category: str
    images: int = 0
    normal: int = 0
    anomalous: int = 0
    rejected_normals: int = 0
    """Normal images answered by a rejection, as they should be."""
    rejected_defectives: int = 0
    """Defective images answered by a rejection: defects that the model overlooked as a whole."""
    no_answer: int = 0
    ap: float = float("nan")
    f1_max: float = float("nan")
    iou_ano: float = float("nan")
    iou_nor: float = float("nan")
    ms_per_image: float = float("nan")
    """Median of the whole call, from the file to the result."""


@dataclass
class Evaluation:
    """All categories, their mean, and every image without an answer."""

    rows: list[Row] = field(default_factory=list)
    no_answers: list[tuple[str, str]] = field(default_factory=list)
    """(image, reason)."""
    instruction: str = ""
    """What the model was asked about every image."""

    def mean(self) -> Row:
        """Figures averaged over the categories where they are defined; counts summed."""
        row = Row("mean")
        for name in asdict(row):
            values = [getattr(each, name) for each in self.rows]
            if name in (*FIGURES, "ms_per_image"):
                setattr(row, name, metrics.mean(values))
            elif name != "category":
                setattr(row, name, sum(values))
        return row


def score_category(
    segmenter: Segments,
    category: str,
    items: Iterable[Item],
    on_scored: Callable[[Scored], None],
    request: Request,
) -> Row:
    """Run a category's images and score them. Raises InputError for an unreadable image or mask, EngineError."""
    row, pixels, times = Row(category), metrics.PixelScores(), []
    overlaps: list[float] = []
    empty: list[float] = []
    for item in items:
        scored = score_image(segmenter, item, request)
        rejected = scored.outcome == AnswerKind.REJECTED.value
        row.images += 1
        row.no_answer += scored.outcome == "no answer"
        if item.anomalous:
            row.anomalous += 1
            row.rejected_defectives += rejected
            overlaps.append(metrics.iou(scored.mask, scored.truth))
        else:
            row.normal += 1
            row.rejected_normals += rejected
            empty.append(float(not scored.mask.any()))
        pixels.add(scored.probability, scored.truth)
        times.append(scored.elapsed_ms)
        on_scored(scored)
    row.ap, row.f1_max = 100 * pixels.average_precision(), 100 * pixels.f1_max()
    row.iou_ano, row.iou_nor = 100 * metrics.mean(overlaps), 100 * metrics.mean(empty)
    row.ms_per_image = statistics.median(times) if times else float("nan")
    return row


def score_image(segmenter: Segments, item: Item, request: Request) -> Scored:
    """Run one image; the time is the whole call's, from the file to the result."""
    begin = time.perf_counter()
    result = ask(segmenter, item.image, request)
    elapsed_ms = (time.perf_counter() - begin) * 1e3
    truth = load_mask(item, result.size)
    if result.verdict is Verdict.NO_ANSWER:
        zeros = np.zeros(result.size, np.float32)
        return Scored(item, truth, zeros, zeros > 0, "no answer", result.reason, elapsed_ms, result.instruction)
    outcome = result.answer_kind.value
    return Scored(item, truth, result.probability, result.mask, outcome, result.reason, elapsed_ms, result.instruction)
