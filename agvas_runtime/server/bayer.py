"""From the samples behind a filter of colours to RGB: bilinear interpolation, rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Pattern = Literal["RG", "GR", "GB", "BG"]
"""The first two colours of the first row."""

RED_AT: dict[Pattern, tuple[int, int]] = {"RG": (0, 0), "GR": (0, 1), "GB": (1, 0), "BG": (1, 1)}
"""(row, column) of the first red sample."""


def demosaic(samples: NDArray[np.uint8] | NDArray[np.uint16], pattern: Pattern, limit: int = 255) -> NDArray[np.uint8]:
    """Interpolate the two colours that each pixel lacks from its neighbours that have them.

    A missing colour is the mean of the two or four nearest samples of it; green at red and blue that of four. Beyond
    the border the picture is continued by its mirror image, which keeps the colours' order.

    Args:
        samples: uint8 or uint16 [H, W], 0 to `limit`, both sides at least 2.
        pattern: where the colours are.
        limit: the largest value that a sample can have; it becomes 255.

    Returns:
        uint8 RGB [H, W, 3].
    """
    height, width = samples.shape
    wide = np.pad(samples.astype(np.uint16 if limit == 255 else np.uint32), 1, mode="reflect")
    planes = {(row, column): np.ascontiguousarray(wide[row::2, column::2]) for row in (0, 1) for column in (0, 1)}
    rgb = np.empty((height, width, 3), np.uint8)
    red_row, red_column = RED_AT[pattern]
    for row in (0, 1):
        for column in (0, 1):
            part = rgb[row::2, column::2]
            own, beside, above, cross, corners = _sums(planes, (row, column), part.shape[:2])
            at_red_row, at_red_column = row == red_row, column == red_column
            if at_red_row == at_red_column:  # red or blue
                kinds = (own, cross, corners) if at_red_row else (corners, cross, own)
            else:
                kinds = (beside, own, above) if at_red_row else (above, own, beside)
            for channel, fourfold in enumerate(kinds):
                part[..., channel] = _scaled(fourfold, limit)
    return rgb


def _sums(
    planes: Mapping[tuple[int, int], NDArray[Any]], first: tuple[int, int], size: tuple[int, ...]
) -> tuple[NDArray[Any], ...]:
    """Four times what the pixels in every second row and column have: themselves, and means of neighbours.

    `planes` are the samples with a border of one pixel, every second row and column of them, by the first of either;
    that way sums are of numbers that lie side by side. Returns: own, left and right, above and below, these four, the
    four corners.
    """
    height, width = size

    def at(down: int, right: int) -> NDArray[Any]:
        (top, odd_row), (left, odd_column) = divmod(first[0] + 1 + down, 2), divmod(first[1] + 1 + right, 2)
        return planes[odd_row, odd_column][top : top + height, left : left + width]

    sides, ends = at(0, -1) + at(0, 1), at(-1, 0) + at(1, 0)
    corners = at(-1, -1) + at(-1, 1) + at(1, -1) + at(1, 1)
    return at(0, 0) * 4, sides * 2, ends * 2, sides + ends, corners


def _scaled(fourfold: NDArray[Any], limit: int) -> NDArray[Any]:
    """Four times a sample of 0 to `limit` as one of 0 to 255, rounded."""
    return (fourfold + 2) >> 2 if limit == 255 else (fourfold * 255 + 2 * limit) // (4 * limit)
