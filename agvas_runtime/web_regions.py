"""Defects of a web without an end: rows of its mask in, every connected defect out, once, as soon as it is complete.

What is kept is one row of the mask and a few numbers of each defect that reaches it, however long web and defects run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.regions import components, extreme, runs
from agvas_runtime.tiling import Mask, Scores

LONGEST_DEFECT = 10_000
"""Rows; where nothing else is said, a longer defect is reported in pieces, so that somebody hears of it."""


@dataclass(frozen=True)
class WebDefect:
    """A connected part (8-connected) of the web's mask. Rows count from the web's first one, 0."""

    first_row: int
    last_row: int
    """Both are the defect's own."""
    x0: int
    x1: int
    """Columns; x1 lies just outside."""
    centroid_x: float
    centroid_row: float
    """Means of the pixels' indices."""
    area_px: int
    mean_score: float
    max_score: float
    begins_cut: bool
    """It may have begun earlier: rows before it were skipped, or reported as another defect, it being too long."""
    ends_cut: bool
    """It may go on, for the same reasons."""
    encoder_count: int | None = None
    """Of the block of rows in which it begins, where that said one."""


@dataclass
class _Part:
    """What is known of a defect so far; constant in size."""

    area: int = 0
    first_row: int = 0
    last_row: int = -1
    x0: int = 0
    x1: int = 0
    sum_x: float = 0.0
    sum_row: float = 0.0
    """Relative to the web's row 0; an integer while it fits one exactly."""
    sum_score: float = 0.0
    max_score: float = 0.0
    begins_cut: bool = False
    encoder_count: int | None = None
    into: _Part | None = field(default=None, repr=False)
    """The one that it turned out to be connected with."""

    def root(self) -> _Part:
        part = self
        while part.into is not None:
            part = part.into
        return part

    def absorb(self, other: _Part) -> None:
        """Become both."""
        if not other.area:
            self.begins_cut |= other.begins_cut
            return
        if not self.area or (other.first_row, other.x0) < (self.first_row, self.x0):
            self.encoder_count = other.encoder_count
        if self.area:
            self.first_row, self.x0 = min(self.first_row, other.first_row), min(self.x0, other.x0)
        else:
            self.first_row, self.x0 = other.first_row, other.x0
        self.last_row, self.x1 = max(self.last_row, other.last_row), max(self.x1, other.x1)
        self.max_score = max(self.max_score, other.max_score)
        self.area += other.area
        self.sum_x += other.sum_x
        self.sum_row += other.sum_row
        self.sum_score += other.sum_score
        self.begins_cut |= other.begins_cut

    def defect(self, ends_cut: bool) -> WebDefect:
        return WebDefect(
            first_row=self.first_row,
            last_row=self.last_row,
            x0=self.x0,
            x1=self.x1,
            centroid_x=self.sum_x / self.area,
            centroid_row=self.sum_row / self.area,
            area_px=self.area,
            mean_score=self.sum_score / self.area,
            max_score=self.max_score,
            begins_cut=self.begins_cut,
            ends_cut=ends_cut,
            encoder_count=self.encoder_count,
        )


class WebRegions:
    """Finds the connected parts of a mask that comes in pieces, from top to bottom.

    Args:
        width: of the web, in pixels.
        min_area_px: smaller parts are counted only.
        min_score: so are parts of a lower mean score.
        longest: rows after which a part is reported although it goes on.
        encoder_of: the encoder count that belongs to a row, if one does.
    """

    def __init__(
        self,
        width: int,
        min_area_px: int = 1,
        min_score: float = 0.0,
        longest: int = LONGEST_DEFECT,
        encoder_of: Callable[[int], int | None] = lambda row: None,
    ) -> None:
        self._min_area_px, self._min_score, self._longest = min_area_px, min_score, longest
        self._encoder_of = encoder_of
        self._edge = np.zeros((1, width), np.bool_)
        """The last row so far."""
        self._of_run: list[_Part] = []
        """The part that each run of this row belongs to."""
        self._begins_cut = False
        """Whether the next row is the first one behind skipped ones."""
        self.ignored = 0
        """Parts that were too small, or whose score was too low."""

    @property
    def open(self) -> int:
        """Parts that may still grow."""
        return len({id(part.root()) for part in self._of_run})

    def add(self, first_row: int, mask: Mask, score: Scores) -> list[WebDefect]:
        """The next rows, [n, W] each, and the number of the first; those parts that are complete now, from the top."""
        if not len(mask):
            return []
        cut, self._begins_cut = self._begins_cut, False
        if not mask.any():
            done = [(part, False) for part in self._open_parts()]
            self._edge, self._of_run = mask[-1:].copy(), []
            return self._reported(done)
        stacked = np.concatenate((self._edge, mask))
        start, end = runs(stacked)
        stride = stacked.shape[1] + 1
        component = components(start, end, stride)
        known = self._known(component)
        row = start // stride - 1
        inner, last = row >= 0, row == len(mask) - 1
        count = int(component.max()) + 1
        table = _Table(count, component[inner], row[inner], start[inner] % stride, end[inner] % stride, mask, score)
        parts: dict[int, _Part] = {}
        for number, part in known.items():
            if table.area[number]:
                part.absorb(self._part(table, number, first_row, cut))
            parts[number] = part
        for number in np.unique(component[last]).tolist():
            if number not in parts:
                parts[number] = self._part(table, number, first_row, cut)
        before = self._open_parts()
        self._edge, self._of_run = mask[-1:].copy(), [parts[number].root() for number in component[last].tolist()]
        still = {id(part) for part in self._of_run}
        done = [(part, False) for part in before if part.into is None and id(part) not in still]
        others = np.setdiff1d(np.flatnonzero(table.area), np.fromiter(parts, np.int64, len(parts)))
        counted = (table.area[others] >= self._min_area_px) & (table.mean_score[others] >= self._min_score)
        self.ignored += int(others.size - np.count_nonzero(counted))
        done += [(self._part(table, int(number), first_row, cut), False) for number in others[counted]]
        return self._reported(done + self._too_long())

    def end(self, cut: bool) -> list[WebDefect]:
        """No row follows the last one, as the web ends there; or, where `cut`, rows are skipped. All open parts."""
        done = [(part, cut) for part in self._open_parts()]
        self._edge, self._of_run, self._begins_cut = np.zeros_like(self._edge), [], cut
        return self._reported(done)

    def _open_parts(self) -> list[_Part]:
        return list({id(part): part for part in (each.root() for each in self._of_run)}.values())

    def _known(self, component: NDArray[np.int64]) -> dict[int, _Part]:
        """The open parts by the component that continues them; those that meet now become one."""
        known: dict[int, _Part] = {}
        for part, number in zip(self._of_run, component[: len(self._of_run)].tolist(), strict=True):
            part, other = part.root(), known.get(number)
            other = other and other.root()
            if other is not None and other is not part:
                other.absorb(part)
                part.into = part = other
            known[number] = part
        return {number: part.root() for number, part in known.items()}

    def _part(self, table: _Table, number: int, first_row: int, cut: bool) -> _Part:
        """A component's own numbers, in rows of the web."""
        area, upper = int(table.area[number]), first_row + int(table.upper[number])
        return _Part(
            area=area,
            first_row=upper,
            last_row=first_row + int(table.lower[number]),
            x0=int(table.left[number]),
            x1=int(table.right[number]),
            sum_x=float(table.sum_x[number]),
            sum_row=int(table.sum_row[number]) + first_row * area,
            sum_score=float(table.sum_score[number]),
            max_score=float(table.peak[number]),
            begins_cut=cut and upper == first_row,
            encoder_count=self._encoder_of(upper),
        )

    def _too_long(self) -> list[tuple[_Part, bool]]:
        """What is reported although it goes on; the rest of it is a part of its own."""
        pieces = []
        for part in self._open_parts():
            if part.area and part.last_row - part.first_row + 1 >= self._longest:
                rest = _Part(begins_cut=True)
                self._of_run = [rest if each.root() is part else each for each in self._of_run]
                pieces.append((part, True))
        return pieces

    def _reported(self, done: list[tuple[_Part, bool]]) -> list[WebDefect]:
        """Those that count, from the top."""
        defects = [part.defect(ends_cut) for part, ends_cut in done if part.area]  # a rest may have had no row
        counted = [each for each in defects if self._counts(each)]
        self.ignored += len(defects) - len(counted)
        return sorted(counted, key=lambda each: (each.first_row, each.x0))

    def _counts(self, defect: WebDefect) -> bool:
        return defect.area_px >= self._min_area_px and defect.mean_score >= self._min_score


class _Table:
    """Numbers of the components of some rows, [C] each, by their runs; rows count from the first of these."""

    def __init__(
        self,
        count: int,
        component: NDArray[np.int64],
        row: NDArray[np.int64],
        x0: NDArray[np.int64],
        x1: NDArray[np.int64],
        mask: Mask,
        score: Scores,
    ) -> None:
        length = x1 - x0
        values, first = score[mask], np.cumsum(length) - length  # run by run, as pixels in row-major order are
        sums = np.add.reduceat(values.astype(np.float64), first)
        self.area = np.bincount(component, length, count).astype(np.int64)
        self.sum_x = np.bincount(component, length * (x0 + x1 - 1) / 2, count)
        self.sum_row = np.bincount(component, length * row, count)
        self.sum_score = np.bincount(component, sums, count)
        self.mean_score = self.sum_score / np.maximum(self.area, 1)
        self.left, self.upper = (extreme(np.minimum, each, component, count) for each in (x0, row))
        self.right, self.lower = (extreme(np.maximum, each, component, count) for each in (x1, row))
        self.peak = extreme(np.maximum, np.maximum.reduceat(values, first), component, count)
