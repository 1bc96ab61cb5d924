"""Connected regions of a mask (8-connected), in numpy alone: runs of every row, joined where they touch the next."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """One connected part of an anomaly mask, in pixels of the original image."""

    area_px: int
    box: tuple[int, int, int, int]
    """(x0, y0, x1, y1); x1 and y1 lie just outside."""
    centroid: tuple[float, float]
    """(x, y), mean of the pixel indices."""
    mean_score: float
    """Mean anomaly probability over the region, in [0,1]."""
    max_score: float


def find_regions(mask: NDArray[np.bool_], score: NDArray[np.float32], min_area: int = 1) -> tuple[Region, ...]:
    """Regions of `mask` (bool [H,W]) of at least `min_area` pixels with their scores in `score` (float32 [H,W]).

    Largest first; among equals the one that begins higher up, then further left.
    """
    if mask.shape != score.shape:
        raise ValueError(f"mask.shape = {mask.shape} != {score.shape} = score.shape, must be the same")
    top, bottom = _ends(mask, axis=1)
    if top == bottom:
        return ()
    begin, stop = _ends(mask[top:bottom], axis=0)
    mask, score = mask[top:bottom, begin:stop], score[top:bottom, begin:stop]

    start, end = runs(mask)
    stride = mask.shape[1] + 1
    row, x0, x1 = start // stride, start % stride + begin, end % stride + begin
    region = components(start, end, stride)
    length = x1 - x0
    values, first = score[mask], np.cumsum(length) - length  # pixels in row-major order: run by run
    sums = np.add.reduceat(values.astype(np.float64), first)
    peaks = np.maximum.reduceat(values, first)

    count = int(region.max()) + 1
    area = np.bincount(region, length, count).astype(np.int64)
    mean_x = np.bincount(region, length * (x0 + x1 - 1) / 2, count) / area
    mean_y = np.bincount(region, length * row, count) / area + top
    mean_score = np.bincount(region, sums, count) / area
    left, upper = (extreme(np.minimum, values, region, count) for values in (x0, row))
    right, lower = (extreme(np.maximum, values, region, count) for values in (x1, row))
    peak = extreme(np.maximum, peaks, region, count)
    return tuple(
        Region(
            area_px=int(area[i]),
            box=(int(left[i]), int(upper[i]) + top, int(right[i]), int(lower[i]) + top + 1),
            centroid=(float(mean_x[i]), float(mean_y[i])),
            mean_score=float(mean_score[i]),
            max_score=float(peak[i]),
        )
        for i in np.argsort(-area, kind="stable")
        if area[i] >= min_area
    )


def _ends(mask: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """The first row (axis 1) or column (axis 0) that is not empty, and the one behind the last; 0 and 0 for none."""
    filled = np.flatnonzero(mask.any(axis=axis))
    return (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)


def runs(mask: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First and one-past-last pixel of every row's runs as flat indices y * (W + 1) + x, int64 [R] each."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.bool_)
    padded[:, 1:-1] = mask
    edges = np.flatnonzero(padded[:, 1:] != padded[:, :-1])  # begins and ends alternate, as every row ends empty
    return edges[::2], edges[1::2]


def components(start: Ints, end: Ints, stride: int) -> Ints:
    """Region number of every run, int64 [R], counted from 0 in the order of first appearance."""
    # Runs [s, e) of one row and [s', e') of the next touch, corners included, when s' <= e and s <= e'.
    low = np.searchsorted(end, start + stride, "left")
    high = np.searchsorted(start, end + stride, "right")
    touching = np.maximum(high - low, 0)
    above = np.repeat(np.arange(start.size), touching)
    below = np.arange(above.size) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(low, touching)

    root = np.arange(start.size)
    while above.size:
        a, b = root[above], root[below]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(shorter := root[root], root):
            root = shorter
        apart = root[above] != root[below]
        above, below = above[apart], below[apart]
    return np.unique(root, return_inverse=True)[1].astype(np.int64)


def extreme(ufunc: np.ufunc, values: NDArray[np.generic], region: Ints, count: int) -> NDArray[np.generic]:
    """The ufunc's (minimum or maximum) over the values of each region, [count]."""
    out = np.empty(count, values.dtype)
    out[region] = values
    ufunc.at(out, region, values)
    return out
