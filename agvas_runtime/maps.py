"""From the decoder's map to the original image's size, to a mask and to regions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.regions import Region, find_regions

Matrix = NDArray[np.float32]
Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels; x1 and y1 lie just outside."""

BAND_ROWS = 64
"""Rows of the image that are computed at once: as many as a core's cache holds, and few cells of the map below them."""
ROUNDING = 1e-5
"""More than a pixel of the map can be above the highest cell that it depends on, by rounding."""
KEPT_SIDE = 4096
"""Steps to a longer side are made anew for each frame: of 2 MB each a few may be kept, whatever sizes callers send."""


def window(roi: Box | None, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a frame of this size (H, W) that lie in the region of interest; None means all of them.

    What sticks out of the frame is cut off. Raises InputError where nothing is left.
    """
    height, width = size
    if roi is None:
        return slice(0, height), slice(0, width)
    x0, y0, x1, y1 = roi
    if x0 >= width or y0 >= height:
        raise InputError(f"recipe.roi: found {roi}, expected one that meets the frame of {width} x {height} pixels")
    return slice(y0, min(y1, height)), slice(x0, min(x1, width))


class Band(NamedTuple):
    """Rows of the image, and the cells of the map that they depend on; the last ones are not among them."""

    top: int
    bottom: int
    first: int
    last: int


class Steps(NamedTuple):
    """Both steps along one axis."""

    matrix: Matrix
    """[size, cells]: cells -> canvas, cropped to resized -> size."""
    bands: Sequence[Band]
    """Of its rows."""


class AnomalyMap:
    """A map at the image's own size, of whose rows those are computed that somebody looks at.

    From the decoder's map as SAM does it: bilinear (align_corners = False) to canvas x canvas, cropped to the resized
    image's (h, w), bilinear to `size` = (H, W). Both steps are linear and separable, so they are one product
    rows @ p @ columns.T, of which a band of rows, or of columns, needs a few cells alone. Outside the region of
    interest everything is 0.

    Args:
        p: float32 [M,M] in [0,1], of the padded canvas.
        canvas: its side in pixels.
        resized: (h, w) that the image takes on it.
        size: (H, W) of the image.
        roi: the region of interest; None means everything.

    Threads may look at it together. Raises InputError as `window` does.
    """

    def __init__(
        self, p: Matrix, canvas: int, resized: tuple[int, int], size: tuple[int, int], roi: Box | None = None
    ) -> None:
        if p.ndim != 2 or p.shape[0] != p.shape[1]:
            raise ValueError(f"p.shape = {p.shape}, must be square [M,M]")
        if not (0 < resized[0] <= canvas and 0 < resized[1] <= canvas):
            raise ValueError(f"resized = {resized} must lie inside the canvas of {canvas} x {canvas}")
        self.size = size
        self._window = window(roi, size)
        self._rows, bands = _two_steps(p.shape[0], canvas, resized[0], size[0])
        columns, across = _two_steps(p.shape[1], canvas, resized[1], size[1])
        self._bands: Sequence[Band] | None = bands
        self._left = set(bands)
        self._highest = p.max(axis=1)
        self._halfway: Matrix = np.empty((p.shape[0], size[1]), np.float32)
        cells = p.astype(np.float32, copy=False)
        for left, right, first, last in across:
            np.matmul(cells[:, first:last], columns[left:right, first:last].T, out=self._halfway[:, left:right])
        self._values: Matrix = np.empty(size, np.float32)
        self._lock = Lock()

    @classmethod
    def of(cls, whole: Matrix) -> AnomalyMap:
        """A map [H,W] that is computed already."""
        made = cls.__new__(cls)
        made.size, made._values = (whole.shape[0], whole.shape[1]), whole
        made._bands, made._left, made._lock = None, set(), Lock()
        return made

    @classmethod
    def nothing(cls, size: tuple[int, int]) -> AnomalyMap:
        """Zeros everywhere. Nobody reads them to find that none is above a threshold: nearly all frames are normal."""
        made = cls.of(np.zeros(size, np.float32))
        made._bands, made._window = (), window(None, size)
        return made

    def __reduce__(self) -> tuple[object, ...]:
        return AnomalyMap.of, (self.whole,)

    @property
    def whole(self) -> Matrix:
        """All of it, float32 [H,W] in [0,1]."""
        self.fill()
        return self._values

    def fill(self, hands: Executor | None = None) -> None:
        """Compute what is left of it, by as many threads as `hands` has."""
        self._fill(self._bands or (), hands)

    def above(self, threshold: float, hands: Executor | None = None) -> NDArray[np.bool_]:
        """Where it is strictly above the threshold, bool [H,W]; bands that cannot be are not computed.

        By as many threads as `hands` has.
        """
        if self._bands is None:
            return binarise(self._values, threshold)
        least, rows = threshold - ROUNDING, self._window[0]
        inside = [band for band in self._bands if rows.start < band.bottom and band.top < rows.stop]
        bands = [band for band in inside if self._highest[band.first : band.last].max() >= least]
        self._fill(bands, hands)
        mask = np.zeros(self.size, np.bool_)
        for band in bands:
            mask[band.top : band.bottom] = binarise(self._values[band.top : band.bottom], threshold)
        return mask

    def regions(self, mask: NDArray[np.bool_]) -> tuple[Region, ...]:
        """The regions of a mask that `above` gave."""
        return find_regions(mask, self._values)

    def _fill(self, bands: Sequence[Band], hands: Executor | None = None) -> None:
        with self._lock:  # what somebody has must not be computed anew
            left = [band for band in bands if band in self._left]
            list((hands.map if hands else map)(self._compute, left))
            self._left.difference_update(left)

    def _compute(self, band: Band) -> None:
        part, lines = self._values[band.top : band.bottom], self._rows[band.top : band.bottom]
        np.matmul(lines[:, band.first : band.last], self._halfway[band.first : band.last], out=part)
        np.minimum(part, 1, out=part)  # the rounded weights of a row may sum to a little more than 1
        y, x = self._window
        part[: max(y.start - band.top, 0)] = part[max(y.stop - band.top, 0) :] = 0
        part[:, : x.start] = part[:, x.stop :] = 0


def merged(maps: Sequence[AnomalyMap], size: tuple[int, int]) -> AnomalyMap:
    """The pixelwise maximum of maps, the only one itself; zeros of that size where there is none."""
    if not maps:
        return AnomalyMap.nothing(size)
    return maps[0] if len(maps) == 1 else AnomalyMap.of(np.maximum.reduce([each.whole for each in maps]))


def binarise(p: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Map float32 [H,W] -> bool [H,W]: strictly above the threshold."""
    return p > np.float32(threshold)


def _two_steps(cells: int, canvas: int, resized: int, size: int) -> Steps:
    return (_kept_steps if size <= KEPT_SIDE else made_steps)(cells, canvas, resized, size)


def made_steps(cells: int, canvas: int, resized: int, size: int) -> Steps:
    """The two steps along one axis as one."""
    low, high, weight = _taps(canvas, cells)
    first = np.zeros((canvas, cells))
    np.add.at(first, (np.arange(canvas), low), 1 - weight)
    np.add.at(first, (np.arange(canvas), high), weight)
    low, high, weight = _taps(size, resized)
    matrix = (first[low] * (1 - weight[:, None]) + first[high] * weight[:, None]).astype(np.float32)
    matrix.setflags(write=False)
    used = [(top, min(top + BAND_ROWS, size)) for top in range(0, size, BAND_ROWS)]
    cells_used = (np.flatnonzero(matrix[top:bottom].any(axis=0)) for top, bottom in used)
    bands = [Band(*rows, int(found[0]), int(found[-1]) + 1) for rows, found in zip(used, cells_used, strict=True)]
    return Steps(matrix, bands)


_kept_steps = lru_cache(maxsize=32)(made_steps)


def _taps(outputs: int, inputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For every output sample its two input samples and the second one's weight, [outputs] each.

    The positions are rounded to float32 where torch rounds them, so that both agree on large images too.
    """
    scale = np.float32(inputs) / np.float32(outputs)
    centre = np.maximum(scale * (np.arange(outputs, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(centre.astype(np.int64), inputs - 1)
    return low, np.minimum(low + 1, inputs - 1), np.minimum(centre - low, 1.0)
