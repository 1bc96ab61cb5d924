"""Normal images through the segmenter: of each, the largest region at every threshold. The maps are not kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.frames import find_images
from agvas_runtime.hashing import sha256_file
from agvas_runtime.maps import binarise, window
from agvas_runtime.regions import find_regions
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.server.engine.task import Task
from agvas_runtime.verdict import AnswerKind, Recipe

GRID = (*(round(step * 0.05, 2) for step in range(1, 20)), 0.96, 0.97, 0.98, 0.99)
"""Thresholds that are looked at, besides the one to begin with. Above the last one hardly a defect is left either."""


@dataclass(frozen=True)
class Areas:
    """What the model saw in N normal images.

    Attributes:
        kinds: of each image's answer, [N].
        largest: int64 [N, T]: pixels of the largest region that the recipe's `min_score` lets count; 0 for none.
        thresholds: float64 [T], rising.
        pixels: int64 [N], of the frame, or of what the recipe's ROI leaves of it.
    """

    kinds: tuple[AnswerKind, ...]
    largest: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    pixels: NDArray[np.int64]


def collect(inputs: list[Path]) -> tuple[list[Path], int]:
    """Every image of these files and folders once, and how many more were copies of one, byte for byte.

    Raises InputError for what is not there.
    """
    found: dict[str, Path] = {}
    paths = {image.absolute(): image for given in inputs for image in find_images(given)}
    for image in paths.values():
        try:
            found.setdefault(sha256_file(image), image)
        except OSError as error:
            raise InputError(f"{image}: cannot read: {error.strerror}") from None
    return list(found.values()), len(paths) - len(found)


def measure(segmenter: Segmenter, images: list[Path], task: Task, thresholds: NDArray[np.float64]) -> Areas:
    """Segment the images one by one, with progress on a terminal. Raises InputError naming an image, EngineError."""
    kinds: list[AnswerKind] = []
    largest = np.zeros((len(images), len(thresholds)), np.int64)
    pixels = np.zeros(len(images), np.int64)
    segmenter.warm([task.request], decoding=task.decoding)
    for index, path in enumerate(console.progress(images, "segmenting", len(images))):
        (result,) = segmenter.segment_batch([path], task.request, task.recipe, decoding=task.decoding)
        kinds.append(result.answer_kind)
        y, x = window(task.recipe.roi, result.size)
        pixels[index] = (y.stop - y.start) * (x.stop - x.start)
        if result.answer_kind is AnswerKind.SEGMENTED:
            largest[index] = largest_regions(result.probability, thresholds, task.recipe)
    return Areas(tuple(kinds), largest, thresholds, pixels)


def largest_regions(
    probability: NDArray[np.float32], thresholds: NDArray[np.float64], recipe: Recipe
) -> NDArray[np.int64]:
    """Area of the largest region that may count, at each rising threshold, int64 [T], in a map float32 [H, W]."""
    areas = np.zeros(len(thresholds), np.int64)
    for index, threshold in enumerate(thresholds):
        mask = binarise(probability, float(threshold))
        if not mask.any():
            break  # nor at any higher one
        regions = find_regions(mask, probability)  # largest first
        areas[index] = next((each.area_px for each in regions if each.mean_score >= recipe.min_score), 0)
    return areas
