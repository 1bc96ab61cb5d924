"""From scored images to a category's row of figures, and from rows to their mean."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from math import isnan, nan

import numpy as np

from agvas_runtime import metrics
from agvas_runtime.evaluate.score import NO_ANSWER, Record, Scored
from agvas_runtime.verdict import AnswerKind

FIGURES = (
    "ap", "f1_max", "iou_ano", "iou_nor", "auroc", "pro", "image_auroc", "answer_auroc",
    "region_recall", "regions_found", "several_found", "area_ratio",
)  # fmt: skip


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
    empty_truths: int = 0
    """Defective images whose ground truth is empty: a flaw of the data set. Only a mask there counts, as IoU 0."""
    regions: int = 0
    """Regions of the ground truth, 8-connected."""
    ap: float = nan
    f1_max: float = nan
    iou_ano: float = nan
    iou_nor: float = nan
    auroc: float = nan
    """Of pixels."""
    pro: float = nan
    image_auroc: float = nan
    """Of images by the maximum of their maps."""
    answer_auroc: float = nan
    """Of images by the probability of the answer against that of a rejection."""
    region_recall: float = nan
    """Mean over the regions of the share that the mask covers."""
    regions_found: float = nan
    """Share of the regions that the mask touches."""
    several_found: float = nan
    """The same in images with two regions or more."""
    area_ratio: float = nan
    """Median over the defective images of the mask's area by the ground truth's: below 100, masks are too small."""
    ms_per_image: float = nan
    """Median of the whole call, from the file to the result."""


@dataclass
class Evaluation:
    """All categories, their mean, and every image."""

    rows: list[Row] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    instruction: str = ""
    """What the model was asked about every image."""

    @property
    def no_answers(self) -> list[Record]:
        """The images without an answer."""
        return [record for record in self.records if record.outcome == NO_ANSWER]

    def mean(self) -> Row:
        """Figures averaged over the categories where they are defined; counts summed."""
        row = Row("mean")
        for name in (each.name for each in fields(Row) if each.name != "category"):
            values = [getattr(each, name) for each in self.rows]
            averaged = name in FIGURES or name == "ms_per_image"
            setattr(row, name, metrics.mean(values) if averaged else sum(values))
        return row


def score_category(category: str, images: Iterable[Scored]) -> tuple[Row, list[Record]]:
    """Take a category's images as they come, and hold of each only what its figures need."""
    pixels, records = metrics.PixelScores(), []
    for scored in images:
        records.append(scored.record)
        if scored.pixels is not None:
            pixels.take(scored.pixels)
    row = _row(category, records)
    figures = pixels.figures()
    row.ap, row.f1_max, row.auroc, row.pro = (100 * figure for figure in figures)
    return row, records


def _row(category: str, records: list[Record]) -> Row:
    """What follows from the records alone."""
    normal = [record for record in records if record.anomalous is False]
    defective = [record for record in records if record.anomalous]
    outlined = [record for record in defective if record.truth_px]
    regions = [share for record in defective for share in record.regions]
    several = [share for record in defective if len(record.regions) > 1 for share in record.regions]
    ratios = [record.mask_px / record.truth_px for record in outlined if record.truth_px]
    times = [record.elapsed_ms for record in records if record.elapsed_ms is not None]
    return Row(
        category,
        images=len(records),
        normal=len(normal),
        anomalous=len(defective),
        rejected_normals=_rejected(normal),
        rejected_defectives=_rejected(defective),
        no_answer=sum(record.outcome == NO_ANSWER for record in records),
        empty_truths=sum(record.truth_px == 0 for record in defective),
        regions=len(regions),
        iou_ano=100 * metrics.mean(record.iou for record in defective if record.iou is not None),
        iou_nor=100 * metrics.mean(float(record.mask_px == 0) for record in normal),
        image_auroc=100 * _image_auroc(normal, defective, "score"),
        answer_auroc=100 * _image_auroc(normal, defective, "answer_score"),
        region_recall=100 * metrics.mean(regions),
        regions_found=100 * metrics.mean(float(share > 0) for share in regions),
        several_found=100 * metrics.mean(float(share > 0) for share in several),
        area_ratio=100 * _median(ratios),
        ms_per_image=_median(times),
    )


def _rejected(records: list[Record]) -> int:
    return sum(record.outcome == AnswerKind.REJECTED.value for record in records)


def _image_auroc(normal: list[Record], defective: list[Record], score: str) -> float:
    values = [getattr(record, score) for record in (*normal, *defective)]
    if None in values:
        return nan
    ranks = np.unique(values, return_inverse=True)[1]  # float32 cannot tell 1 - 1e-12 from 1 - 2e-8
    return metrics.auroc(ranks.astype(np.float32), np.arange(len(values)) >= len(normal))


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else nan


def without_nan(row: Row) -> dict[str, object]:
    """The row as JSON holds it: None where a figure is undefined."""
    return {
        each.name: None if isinstance(value := getattr(row, each.name), float) and isnan(value) else value
        for each in fields(Row)
    }


def row_of(stored: dict[str, object]) -> Row:
    """The row of what `without_nan` gave."""
    return Row(**{name: nan if value is None else value for name, value in stored.items()})  # type: ignore[arg-type]
