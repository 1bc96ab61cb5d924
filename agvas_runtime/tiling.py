"""Images that are too large for one look, and webs without an end, in tiles: where tiles lie, how rows become bands of
tiles, how the answers of overlapping tiles become one. It knows no model and no gRPC; what connects is in `web.py`.

A pixel that several tiles see belongs to the mask where any of them says so, and its score is the highest of theirs: a
defect that is smaller than the overlap is whole in at least one tile, so none is lost because a tile sees half of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import as_rgb, grey_of

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Scores = NDArray[np.float32]
Segment = Callable[[Pixels], tuple[Mask, Scores]]
"""Pixels uint8 [h, w, 3] -> mask bool [h, w] and score float32 [h, w] in [0, 1]."""

LEAST_SIDE, MOST_SIDE = 16, 65_536
USUAL_SIDE, USUAL_OVERLAP = 512, 64


@dataclass(frozen=True)
class Tiling:
    """Sizes in pixels. Raises InputError naming the field."""

    height: int = USUAL_SIDE
    width: int = USUAL_SIDE
    overlap: int = USUAL_OVERLAP
    """Rows and columns that neighbours share; a defect that is not larger is seen whole by at least one tile."""

    def __post_init__(self) -> None:
        for name, side in (("tile_height", self.height), ("tile_width", self.width)):
            if not LEAST_SIDE <= side <= MOST_SIDE:
                raise InputError(f"{name}: found {side}, expected {LEAST_SIDE} to {MOST_SIDE}")
        most = min(self.height, self.width) // 2
        if not 0 <= self.overlap <= most:
            raise InputError(f"overlap: found {self.overlap}, expected 0 to {most}, half of the tile's shorter side")

    @classmethod
    def of(cls, height: int | None = None, width: int | None = None, overlap: int | None = None) -> Tiling:
        """The usual sizes for what is None: 512, an overlap of 64 or of a quarter of a small tile."""
        height, width = (USUAL_SIDE if side is None else side for side in (height, width))
        return cls(height, width, min(USUAL_OVERLAP, min(height, width) // 4) if overlap is None else overlap)

    @property
    def step(self) -> int:
        """Rows from one band of tiles to the next."""
        return self.height - self.overlap

    def columns(self, width: int) -> list[slice]:
        """The columns of a band's tiles, left to right, together all of the width; the last one ends with the web.

        All are as wide as a tile, but for a web that is narrower.
        """
        if width <= self.width:
            return [slice(0, width)]
        starts = [*range(0, width - self.width, self.width - self.overlap), width - self.width]
        return [slice(start, start + self.width) for start in starts]


@dataclass(frozen=True, eq=False)
class Band:
    """Rows that are segmented together, tile by tile."""

    first_row: int
    """Of the web."""
    parts: list[Pixels]
    """What its pixels are put together from."""
    fresh: int
    """How many of its rows, the last ones, no earlier band has."""
    settled: int
    """So many of its rows, the first ones, no later band has: what is said of them is final with this band."""

    @cached_property
    def pixels(self) -> Pixels:
        """uint8 [h, W, 3]; h is the tile's height, but for a section that is shorter as a whole.

        They are copied when they are first asked for: of a wide web that takes longer than a lock may be held.
        """
        greys = [grey for part in self.parts if (grey := grey_of(part)) is not None]
        joined = as_rgb(np.concatenate(greys)) if len(greys) == len(self.parts) else np.concatenate(self.parts)
        self.parts[:] = [joined]
        return joined


class Bands:
    """A section of rows without a gap, cut into bands that overlap. The section's last band ends with it.

    Args:
        tiling: the sizes.
        first_row: of the section, in rows of the web.
    """

    def __init__(self, tiling: Tiling, first_row: int = 0) -> None:
        self._tiling, self._end = tiling, first_row
        self._fresh: deque[Pixels] = deque()
        self._last: Band | None = None
        self.waiting = 0
        """Rows that are in no band yet."""

    @property
    def end_row(self) -> int:
        """The row behind the last one that is in a band."""
        return self._end

    def add(self, rows: Pixels) -> None:
        """The next rows, uint8 [n, W, 3], n at least 1. They are not copied yet."""
        self._fresh.append(rows)
        self.waiting += len(rows)

    @property
    def begun(self) -> bool:
        """Whether there was a band."""
        return self._last is not None

    @property
    def ready(self) -> bool:
        """Whether there are rows enough for a whole band."""
        return self.waiting >= self._wanted

    def take(self) -> Band | None:
        """The next band, if there are rows enough for a whole one."""
        return self._band(self._wanted) if self.ready else None

    def rest(self) -> Band | None:
        """The last band of the section, once `take` has no more: rows that fill no step of their own; None for none."""
        return self._band(self.waiting) if self.waiting else None

    def drop(self) -> int:
        """Forget the rows that are in no band yet; how many these were."""
        dropped, self.waiting = self.waiting, 0
        self._fresh.clear()
        return dropped

    @property
    def _wanted(self) -> int:
        return self._tiling.height if self._last is None else self._tiling.step

    def _band(self, fresh: int) -> Band:
        parts, wanted = [], fresh
        if self._last is not None:
            last = self._last.pixels
            parts.append(last[max(fresh + len(last) - self._tiling.height, 0) :])
        while wanted:
            rows = self._fresh.popleft()
            if len(rows) > wanted:
                self._fresh.appendleft(rows[wanted:])
            parts.append(rows[:wanted])
            wanted -= len(parts[-1])
        self.waiting -= fresh
        self._end += fresh
        height = sum(map(len, parts))
        self._last = Band(self._end - height, parts, fresh, max(height - self._tiling.overlap, 0))
        return self._last


class Fusion:
    """Puts the masks and scores of overlapping tiles together, and hands out the rows that nothing changes any more.

    Args:
        width: of the web, in pixels.
        first_row: the first one that tiles may cover.
    """

    def __init__(self, width: int, first_row: int = 0) -> None:
        self._first = first_row
        self._mask = np.zeros((0, width), np.bool_)
        self._score = np.zeros((0, width), np.float32)

    def add(self, first_row: int, columns: slice, mask: Mask, score: Scores) -> None:
        """A tile's answer, [h, w] each, from this row of the web on. Rows that were handed out stay as they are."""
        late = max(self._first - first_row, 0)
        mask, score, top = mask[late:], score[late:], first_row + late - self._first
        self.cover(self._first + top + len(mask))
        rows = slice(top, top + len(mask))
        self._mask[rows, columns] |= mask
        np.maximum(self._score[rows, columns], score, out=self._score[rows, columns])

    def cover(self, end_row: int) -> None:
        """Have all rows before this one, empty where no tile says anything."""
        missing = end_row - self._first - len(self._mask)
        if missing > 0:
            self._mask = np.pad(self._mask, ((0, missing), (0, 0)))
            self._score = np.pad(self._score, ((0, missing), (0, 0)))

    def settle(self, end_row: int | None = None) -> tuple[int, Mask, Scores]:
        """Hand out the rows before this one, or all of them: the first one's number, mask and score [n, W]."""
        count = len(self._mask) if end_row is None else min(max(end_row - self._first, 0), len(self._mask))
        first, mask, score = self._first, self._mask[:count], self._score[:count]
        self._first += count
        self._mask, self._score = self._mask[count:].copy(), self._score[count:].copy()
        return first, mask, score

    def skip(self, end_row: int) -> None:
        """Begin anew at this row, once all before are handed out."""
        self._first = end_row


def bands(image: Pixels, tiling: Tiling) -> Iterator[Band]:
    """The bands of an image, uint8 [H, W, 3]."""
    section = Bands(tiling)
    section.add(image)
    while band := section.take():
        yield band
    if band := section.rest():
        yield band


def segment_tiled(
    image: Pixels, segment: Segment, tiling: Tiling, within: tuple[slice, slice] | None = None
) -> tuple[Mask, Scores]:
    """Segment a large image, uint8 [H, W, 3], tile by tile; its mask, bool [H, W], and score, float32 [H, W].

    Tiles that lie outside of the rows and columns `within` are left out.
    """
    rows, columns = within or (slice(0, image.shape[0]), slice(0, image.shape[1]))
    fusion = Fusion(image.shape[1])
    fusion.cover(image.shape[0])
    for band in bands(image, tiling):
        for each in tiling.columns(image.shape[1]):
            if _meet(slice(band.first_row, band.first_row + len(band.pixels)), rows) and _meet(each, columns):
                fusion.add(band.first_row, each, *segment(band.pixels[:, each]))
    _, mask, score = fusion.settle()
    return mask, score


def _meet(one: slice, other: slice) -> bool:
    return bool(one.start < other.stop and other.start < one.stop)
