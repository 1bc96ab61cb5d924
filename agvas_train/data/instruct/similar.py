"""How alike two images are: structural similarity and the Bhattacharyya distance of their colours.

Both are measured on images shrunk to 64 x 64 pixels. SSIM (Wang et al., 2004) is the mean over windows of 8 x 8 grey
pixels, 4 apart. The distance is sqrt(1 - sum sqrt(p q)) of the histograms p, q with 8 x 8 x 8 bins of RGB. The most
similar image has the highest SSIM minus distance: the paper names both measures and not how they go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE, STEP, BINS = 64, 4, 8
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """What of an image is compared."""

    grey: Floats
    """[64,64] in [0,255]."""
    colours: Floats
    """[512] square roots of the colours' shares; their squares sum up to 1."""


@dataclass(frozen=True)
class Likeness:
    """How alike two images are."""

    ssim: float
    """In [-1,1], 1 for the same image."""
    distance: float
    """Bhattacharyya distance in [0,1], 0 for the same colours."""

    @property
    def score(self) -> float:
        """Higher is more similar."""
        return self.ssim - self.distance


def look_of(image: NDArray[np.uint8]) -> Look:
    """What of an image, uint8 RGB [H,W,3], is compared."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
    levels = np.asarray(small).reshape(-1, 3).astype(np.int64) * BINS // 256
    bins = np.bincount(levels @ np.array([BINS * BINS, BINS, 1]), minlength=BINS**3)
    shares = bins.astype(np.float32) / np.float32(SIDE * SIDE)
    return Look(np.asarray(small.convert("L"), dtype=np.float32), np.sqrt(shares))


class Gallery:
    """Images that others are compared with."""

    def __init__(self, looks: Sequence[Look]) -> None:
        self._grey = np.stack([look.grey for look in looks])
        self._colours = np.stack([look.colours for look in looks])
        self._mean = _windows(self._grey)
        self._spread = _windows(self._grey * self._grey) - self._mean**2

    def compare(self, look: Look) -> list[Likeness]:
        """How alike an image is to each of the gallery's."""
        overlap = self._colours @ look.colours
        distance = np.sqrt(np.clip(1 - overlap, 0, 1))
        distance[overlap > 1 - 1e-6] = 0  # what is left of rounding would be magnified by the root
        return [Likeness(float(each), float(far)) for each, far in zip(self._ssim(look.grey), distance, strict=True)]

    def _ssim(self, grey: Floats) -> Floats:
        """Mean SSIM [n] of an image [64,64] with each of the gallery's."""
        mean, many = _windows(grey), self._mean
        spread = _windows(grey * grey) - mean**2
        shared = _windows(grey * self._grey) - mean * many
        light = (2 * mean * many + _C1) / (mean**2 + many**2 + _C1)
        ssim: Floats = (light * (2 * shared + _C2) / (spread + self._spread + _C2)).mean(axis=(-2, -1))
        return ssim


def _windows(values: Floats) -> Floats:
    """Means of [...,64,64] over windows of 8 x 8, 4 apart: [...,15,15]."""
    rows = reduce(np.add, (values[..., at::STEP, :] for at in range(STEP)))
    blocks = reduce(np.add, (rows[..., at::STEP] for at in range(STEP)))
    pairs = blocks[..., 1:, :] + blocks[..., :-1, :]
    means: Floats = (pairs[..., 1:] + pairs[..., :-1]) / (4 * STEP * STEP)
    return means
