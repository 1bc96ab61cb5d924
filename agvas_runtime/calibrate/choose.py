"""Which threshold and smallest area: the least strict ones that reject no more normal images than are allowed.

The settings are put in one line, each at least as strict as those before it: at the first threshold the smallest area
grows from `min_area` to `max_area`, then the threshold rises at that area. So every image has one place in the line,
the last setting that rejects it, and what is chosen is an order statistic of these places: `bounds.upper_bound` holds
for it, with nothing held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Choice:
    """A setting, and what the images say of it."""

    threshold: float
    min_area_px: int
    rejects: int
    """Of the images, with this setting."""
    reached: bool
    """Whether it rejects no more than were allowed; if not, it is the strictest setting in the line."""


@dataclass(frozen=True)
class Line:
    """The settings to choose from; `start` is one of the areas' thresholds."""

    start: float
    min_area: int
    max_area: int

    @property
    def areas(self) -> int:
        """How many settings the first threshold has."""
        return self.max_area - self.min_area + 1


def choose(largest: NDArray[np.int64], thresholds: NDArray[np.float64], line: Line, allowed: int) -> Choice:
    """The first setting from which on at most `allowed` images are rejected.

    Args:
        largest: largest region of each image at each threshold, int64 [N, T], N > allowed.
        thresholds: float64 [T], rising.
        line: the settings.
        allowed: images that may be rejected.
    """
    first = int(np.flatnonzero(thresholds == line.start)[0])
    places = np.sort(last_rejecting(largest[:, first:], line))[::-1]
    place = int(places[allowed]) + 1
    steps = len(thresholds) - first - 1
    reached = place <= line.areas + steps
    place = min(place, line.areas + steps)
    index = first + max(0, place - line.areas)
    area = line.min_area + min(place, line.areas) - 1
    rejects = int(np.count_nonzero(largest[:, index] >= area))
    return Choice(float(thresholds[index]), area, rejects, reached)


def last_rejecting(largest: NDArray[np.int64], line: Line) -> NDArray[np.int64]:
    """Of each image the place, counted from 1, of the last setting in the line that rejects it; 0 for none: [N].

    `largest` begins with the line's own threshold.
    """
    places = np.clip(largest[:, 0] - line.min_area + 1, 0, line.areas)
    for step in range(1, largest.shape[1]):
        places[largest[:, step] >= line.max_area] = line.areas + step
    return places


def saved_by_nothing(largest: NDArray[np.int64], pixels: NDArray[np.int64]) -> int:
    """Images of which half or more is one region at the highest threshold: the model segments them as a whole."""
    return int(np.count_nonzero(2 * largest[:, -1] >= pixels))
