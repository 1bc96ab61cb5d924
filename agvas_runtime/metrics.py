"""The figures of anomaly segmentation: AP, F1-Max, AUROC and PRO over a category's pixels, IoU over its images.

All lie in [0,1]; NaN where a figure is undefined (no defective pixel, no normal image). Those over pixels are exact
whatever the number of pixels: beyond a fixed number they are sorted in temporary files (`sorted_scores.py`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.regions import components, runs
from agvas_runtime.sorted_scores import PIECE_SCORES, RUN_SCORES, SortedScores

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

PRO_LIMIT = 0.3
"""PRO is integrated up to this share of false positives."""


class Pixels(NamedTuple):
    """One image's pixels, as the figures over a category need them."""

    sound: Map
    """Scores of the sound pixels, float32 [s]."""
    defective: Map
    """Scores of the defective pixels, float32 [d]."""
    region: NDArray[np.int32]
    """Region (8-connected, counted from 0) of every defective pixel, int32 [d]."""


class PixelFigures(NamedTuple):
    """Figures over all pixels of a category."""

    ap: float
    """Sum over the thresholds of precision times gain in recall; NaN without a defective pixel."""
    f1_max: float
    """The best F1 over all thresholds; NaN without a defective pixel."""
    auroc: float
    """Probability that a defective pixel scores above a sound one, ties half; NaN unless there are both."""
    pro: float
    """Per-region overlap: the area under (false positive rate, mean over the regions of their covered share) up to a
    rate of `PRO_LIMIT`, over `PRO_LIMIT`; NaN unless there are defective and sound pixels."""


class PixelScores:
    """The scores of all pixels of a category, image by image, and the figures over them.

    Args:
        run_scores: sound pixels that are sorted in memory; of defective ones, which carry more, a quarter.
        piece_scores: defective pixels that are read at once.
    """

    def __init__(self, run_scores: int = RUN_SCORES, piece_scores: int = PIECE_SCORES) -> None:
        self._sound, self._defective = SortedScores(run_scores), SortedScores(max(1, run_scores // 4))
        self._regions = 0
        self._piece_scores = piece_scores

    def add(self, scores: Map, truth: Mask) -> None:
        """Take one image's scores (float32, higher is more anomalous) and ground truth (bool), both [H,W] or [N]."""
        self.take(split(scores, truth))

    def take(self, pixels: Pixels) -> None:
        """Take one image that was split."""
        areas = np.bincount(pixels.region)
        self._sound.add(pixels.sound)
        self._defective.add(pixels.defective, 1 / areas[pixels.region])
        self._regions += areas.size

    def average_precision(self) -> float:
        """As `PixelFigures.ap`."""
        return self.figures().ap

    def f1_max(self) -> float:
        """As `PixelFigures.f1_max`."""
        return self.figures().f1_max

    def figures(self) -> PixelFigures:
        """All figures, in one way down over the distinct scores of the defective pixels.

        A threshold at any other score finds no further defective pixel: AP, F1-Max and AUROC do not need it, and
        between two of them PRO's curve is level.
        """
        positives, negatives = self._defective.count, self._sound.count
        if not positives:
            return PixelFigures(*[float("nan")] * 4)
        hits, covered, passed = 0, 0.0, 0
        ap, best, ranked, area = 0.0, 0.0, 0.0, 0.0
        for piece in self._defective.descending(self._piece_scores):
            ascending = piece.scores[::-1]
            before, at = self._sound.above(ascending)[::-1], self._sound.at_least(ascending)[::-1]
            found = hits + np.cumsum(piece.counts)
            ap += float(np.sum(piece.counts / positives * (found / (found + at))))
            best = max(best, float(np.max(2 * found / (found + at + positives))))
            ranked += float(np.sum(piece.counts * (negatives - (before + at) / 2)))
            overlap = np.concatenate([[covered], covered + np.cumsum(piece.weights)])
            area += _area(*_corners(passed, before, at, overlap), limit=PRO_LIMIT * negatives)
            hits, covered, passed = int(found[-1]), float(overlap[-1]), int(at[-1])
        area += _area(np.array([passed, negatives]), np.array([covered, covered]), limit=PRO_LIMIT * negatives)
        if not negatives:
            return PixelFigures(ap, best, float("nan"), float("nan"))
        return PixelFigures(ap, best, ranked / positives / negatives, area / self._regions / (PRO_LIMIT * negatives))


def split(scores: Map, truth: Mask) -> Pixels:
    """Scores (float32 [H,W] or [N]) apart by the ground truth (bool, same shape). Raises ValueError for NaN."""
    if scores.shape != truth.shape:
        raise ValueError(f"scores.shape = {scores.shape} != {truth.shape} = truth.shape, must be the same")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    scores, truth = np.atleast_2d(scores.astype(np.float32, copy=False)), np.atleast_2d(truth)
    return Pixels(scores[~truth], scores[truth], regions_of(truth))


def regions_of(truth: Mask) -> NDArray[np.int32]:
    """Region (8-connected, counted from 0) of every defective pixel of a mask (bool [H,W]), int32 [d], row by row."""
    start, end = runs(truth)
    if not start.size:
        return np.empty(0, np.int32)
    return np.repeat(components(start, end, truth.shape[1] + 1), end - start).astype(np.int32)


def average_precision(scores: Map, truth: Mask) -> float:
    """AP of scores (float32 [H,W] or [N]) against the ground truth (bool, same shape)."""
    return _figures(scores, truth).ap


def f1_max(scores: Map, truth: Mask) -> float:
    """F1-Max of scores (float32 [H,W] or [N]) against the ground truth (bool, same shape)."""
    return _figures(scores, truth).f1_max


def auroc(scores: Map, truth: Mask) -> float:
    """AUROC of scores (float32 [H,W] or [N]) against the ground truth (bool, same shape)."""
    return _figures(scores, truth).auroc


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (bool [H,W]); NaN when both are empty."""
    union = np.count_nonzero(mask | truth)
    return float(np.count_nonzero(mask & truth) / union) if union else float("nan")


def iou_ano(pairs: Iterable[tuple[Mask, Mask]]) -> float:
    """Mean IoU of (mask, truth) over the defective images (the paper's equation A.1); NaN without any."""
    return mean(iou(mask, truth) for mask, truth in pairs)


def iou_nor(masks: Iterable[Mask]) -> float:
    """Share of normal images with an empty mask (the paper's equation A.2); NaN without any."""
    return mean(float(not mask.any()) for mask in masks)


def coverage(mask: Mask, truth: Mask) -> list[float]:
    """The share of each region of the ground truth that the mask covers (bool [H,W] both)."""
    region = regions_of(truth)
    areas = np.bincount(region)
    return [float(share) for share in np.bincount(region, mask[truth], areas.size) / areas]


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are defined; NaN when none is."""
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")


def _figures(scores: Map, truth: Mask) -> PixelFigures:
    pixels = PixelScores()
    pixels.add(scores, truth)
    return pixels.figures()


def _corners(
    passed: int, before: NDArray[np.int64], at: NDArray[np.int64], overlap: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners (false positives, overlap) of PRO's curve: level up to each threshold, then in a line to behind it."""
    x = np.concatenate([[passed], np.stack([before, at], 1).ravel()]).astype(np.float64)
    return x, np.concatenate([overlap[:1], np.stack([overlap[:-1], overlap[1:]], 1).ravel()])


def _area(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Area under the line through the corners, x ascending, left of the limit."""
    width = np.diff(x)
    kept = np.clip(limit - x[:-1], 0, width)
    slope = np.divide(np.diff(y), width, out=np.zeros(width.size), where=width > 0)
    return float(np.sum(kept * (y[:-1] + slope * kept / 2)))
