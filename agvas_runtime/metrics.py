"""The four figures of anomaly segmentation: pixel AP and F1-Max over a category, IoU_ano and IoU_nor over its images.

All lie in [0,1]; NaN where a figure is undefined (no defective pixel, no normal image). AP and F1-Max are exact over
all pixels and equal scikit-learn's. Memory: the scores of defective and of sound pixels are kept as float32, sorted in
place, so a category of n pixels peaks near 8 n bytes.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


class PixelScores:
    """The scores of all pixels of a category, image by image, and the curve over them."""

    def __init__(self) -> None:
        self._defective: list[Map] = []
        self._sound: list[Map] = []

    def add(self, scores: Map, truth: Mask) -> None:
        """Take one image's scores (float32, higher is more anomalous) and ground truth (bool, same shape)."""
        if scores.shape != truth.shape:
            raise ValueError(f"scores.shape = {scores.shape} != {truth.shape} = truth.shape, must be the same")
        if np.isnan(scores).any():
            raise ValueError("scores hold NaN")
        self._defective.append(scores[truth].astype(np.float32, copy=False))
        self._sound.append(scores[~truth].astype(np.float32, copy=False))

    def average_precision(self) -> float:
        """Sum over the thresholds of precision times gain in recall; NaN without a defective pixel."""
        hits, false, positives = self._curve()
        if not positives:
            return float("nan")
        gained = np.diff(hits, append=0)  # thresholds rise, so hits fall
        return float(np.sum(-gained / positives * (hits / (hits + false))))

    def f1_max(self) -> float:
        """The best F1 over all thresholds; NaN without a defective pixel."""
        hits, false, positives = self._curve()
        return float(np.max(2 * hits / (hits + false + positives))) if positives else float("nan")

    def _curve(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """True and false positives at every distinct score of a defective pixel (ascending), and all defective pixels.

        A threshold at any other score finds no further defective pixel, so neither figure is missing one.
        """
        defective, sound = _sorted(self._defective), _sorted(self._sound)
        if not defective.size:
            return np.empty(0, np.int64), np.empty(0, np.int64), 0
        first = np.flatnonzero(np.diff(defective, prepend=np.float32(-np.inf)))
        hits = defective.size - first
        false = sound.size - np.searchsorted(sound, defective[first], "left")
        return hits, false, defective.size


def average_precision(scores: Map, truth: Mask) -> float:
    """Pixel AP of scores (float32, any shape) against the ground truth (bool, same shape)."""
    pixels = PixelScores()
    pixels.add(scores, truth)
    return pixels.average_precision()


def f1_max(scores: Map, truth: Mask) -> float:
    """F1-Max of scores (float32, any shape) against the ground truth (bool, same shape)."""
    pixels = PixelScores()
    pixels.add(scores, truth)
    return pixels.f1_max()


def iou(mask: Mask, truth: Mask) -> float:
    """Intersection over union of two masks (bool [H,W]); NaN when both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else float("nan")


def iou_ano(pairs: Iterable[tuple[Mask, Mask]]) -> float:
    """Mean IoU of (mask, truth) over the defective images (the paper's equation A.1); NaN without any."""
    return mean(iou(mask, truth) for mask, truth in pairs)


def iou_nor(masks: Iterable[Mask]) -> float:
    """Share of normal images with an empty mask (the paper's equation A.2); NaN without any."""
    return mean(float(not mask.any()) for mask in masks)


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are defined; NaN when none is."""
    defined = [value for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")


def _sorted(parts: list[Map]) -> Map:
    """All parts as one sorted array, which also takes their place in the list."""
    if len(parts) != 1 or not parts[0].flags.writeable:
        parts[:] = [np.concatenate(parts) if parts else np.empty(0, np.float32)]
    parts[0].sort()
    return parts[0]
