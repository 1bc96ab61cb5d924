"""A mask's outlines along its pixels' edges, and back: polygons that say exactly which pixels belong to the mask.

Points are pixels' corners, so that the mask of the first pixel alone is (0, 0) (1, 0) (1, 1) (0, 1). Outlines have the
mask at their right: outer ones run clockwise as seen on the screen, holes counter-clockwise. Where two of its pixels
touch in nothing but a corner, every outline turns left. That joins the two, as `regions.find_regions` does: there is
one outer outline for each region.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError

Ints = NDArray[np.int64]


def trace(mask: NDArray[np.bool_]) -> list[Ints]:
    """The outlines of a mask [H, W], (x, y) of every corner [n, 2] each; only where an outline turns there is a point.

    An outer outline begins at the left of its topmost edge, a hole at the right of it. The one whose edge is higher
    comes first, then the one further left.
    """
    filled_y, filled_x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not filled_y.size:
        return []
    top, left = filled_y[0], filled_x[0]
    mask = mask[top : filled_y[-1] + 1, left : filled_x[-1] + 1]
    y, x0, x1, below = _edges(mask.T)  # the mask lies below: to the right, as seen in this direction
    x, y0, y1, right = _edges(mask)
    stride = mask.shape[1] + 1
    x_from, x_to = np.where(below, x0, x1), np.where(below, x1, x0)
    y_from, y_to = np.where(right, y1, y0), np.where(right, y0, y1)
    # Where two outlines meet in a corner, the last bit pairs the edges so that both turn left.
    upright = _paired((y * stride + x_to) * 2 + ~below, (y_from * stride + x) * 2 + ~right)
    level = _paired((y_to * stride + x) * 2 + right, (y * stride + x_from) * 2 + ~below)
    order, ends = _cycles(level[upright])
    corners = np.stack((x_from + left, y + top, x_to + left, y + top), axis=1)
    points = corners[order].reshape(-1, 2)
    return [points[2 * begin : 2 * end] for begin, end in pairwise([0, *ends])]


def corners(mask: NDArray[np.bool_]) -> int:
    """How many points the outlines of a mask [H, W] have together, without tracing them."""
    framed = np.pad(mask, 1)
    right = framed[:, 1:]  # the pixel at the right of every place between two columns
    edge = framed[:, :-1] != right
    goes_on = edge[:-1] & (right[1:] == right[:-1])
    return 2 * int(np.count_nonzero(edge[1:] & ~goes_on))  # an upright edge has two ends, and each is a corner


def fill(polygons: Sequence[NDArray[np.integer[Any]]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of this size (H, W) whose outlines these are, by the even-odd rule; the inverse of `trace`.

    Raises InputError for an edge that is neither level nor upright, and for a point outside the mask.
    """
    height, width = size
    mask = np.zeros(size, np.bool_)
    if not polygons:
        return mask
    lengths = np.array([len(polygon) for polygon in polygons])
    if lengths.min() < 4:
        raise InputError(f"polygons: found one of {lengths.min()} points, expected at least 4")
    start = np.concatenate(polygons).astype(np.int64, copy=False)
    last = np.cumsum(lengths) - 1
    following = np.arange(1, len(start) + 1)
    following[last] -= lengths  # a polygon's last edge leads to its first point
    end = start[following]
    if (start != end).all(axis=1).any():
        raise InputError("polygons: found an edge that is neither level nor upright")
    low, high = start.min(axis=0), start.max(axis=0)
    if (low < 0).any() or (high > (width, height)).any():
        raise InputError(f"polygons: found a point outside, expected all within {width} x {height} pixels")
    upright = start[:, 1] != end[:, 1]
    x, y = (np.concatenate((start[upright], end[upright])) - low).T
    box_width, box_height = high - low
    turns = np.zeros((box_height + 1, box_width + 1), np.uint8)
    np.add.at(turns.ravel(), y * (box_width + 1) + x, np.uint8(1))
    # A pixel belongs to the mask where the number of upright edges at its left is odd; 8 bits may overflow.
    edges = np.add.accumulate(turns, axis=0, dtype=np.uint8)
    inside = np.add.accumulate(edges, axis=1, dtype=np.uint8)[:-1, :-1] & 1
    mask[low[1] : high[1], low[0] : high[0]] = inside
    return mask


def _edges(mask: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
    """The edges between columns: x, first y, last y, and whether the mask is at their right; by x, then by y."""
    height, width = mask.shape
    steps = np.zeros((width + 1, height + 2), np.int8)  # [x, y + 1]: what changes from pixel x - 1 to pixel x
    steps[:-1, 1:-1] = mask.T
    steps[1:, 1:-1] -= mask.T
    flat = steps.ravel()
    change = np.flatnonzero(flat[1:] != flat[:-1])
    first, last = change[flat[change + 1] != 0], change[flat[change] != 0]
    return first // steps.shape[1], first % steps.shape[1], last % steps.shape[1], flat[first + 1] > 0


def _paired(ends: Ints, starts: Ints) -> Ints:
    """For every edge's end the edge that starts there, by keys of the corners; no key is twice in one of them."""
    following = np.empty_like(ends)
    following[np.argsort(ends)] = np.argsort(starts)
    return following


def _cycles(following: Ints) -> tuple[Ints, list[int]]:
    """The cycles of a permutation: all their members in turn, and where each ends; by their smallest members."""
    left: list[int] = following.tolist()
    order: list[int] = []
    ends: list[int] = []
    for member in range(len(left)):
        if left[member] < 0:
            continue
        while (after := left[member]) >= 0:
            order.append(member)
            left[member] = -1
            member = after
        ends.append(len(order))
    return np.array(order), ends
