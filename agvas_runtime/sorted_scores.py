"""Sorting more scores than memory should hold: sorted runs, one in memory, the others in a temporary file each.

Knows nothing of images or figures. The files have no name and vanish with the object; they lie where `tempfile` puts
them (`TMPDIR`): 4 bytes a score, 8 more for its weight.
"""

import tempfile
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import EngineError

Scores = NDArray[np.float32]
Weights = NDArray[np.float64]

RUN_SCORES = 1 << 24
"""Scores that are sorted at once, 64 MiB: sorting takes about twice that."""
PIECE_SCORES = 1 << 20
"""Scores that `descending` holds at once."""


class Run(NamedTuple):
    """Scores in ascending order."""

    scores: Scores
    below: Weights
    """[n + 1]: the sum of the weights before each score; empty where there are no weights."""


class Piece(NamedTuple):
    """Distinct scores in descending order, with how often each occurs and the sum of its weights."""

    scores: Scores
    counts: NDArray[np.int64]
    weights: Weights


class SortedScores:
    """Scores, with or without a weight each, that come in any order and are read in descending order.

    Args:
        run_scores: how many are held in memory; beyond, sorted runs of that many go to disk.
    """

    def __init__(self, run_scores: int = RUN_SCORES) -> None:
        self.count = 0
        self._run_scores = run_scores
        self._on_disk: list[Run] = []
        self._parts: list[tuple[Scores, Weights]] = []
        self._in_memory: Run | None = None
        """The parts, once they have been read."""

    def add(self, scores: Scores, weights: Weights | None = None) -> None:
        """Take float32 [n] and float64 [n]. Raises EngineError where a temporary file cannot be written."""
        weights = np.empty(0) if weights is None else weights
        for begin in range(0, scores.size, self._run_scores):
            part = slice(begin, begin + self._run_scores)
            held = sum(each.size for each, _ in self._parts)
            if held and held + scores[part].size > self._run_scores:
                run = _sorted(self._parts)
                self._parts = []
                self._on_disk.append(Run(_mapped(run.scores), _mapped(run.below) if run.below.size else run.below))
            self._parts.append((scores[part], weights[part]))
        self.count += scores.size
        self._in_memory = None

    def at_least(self, thresholds: Scores) -> NDArray[np.int64]:
        """How many scores are no less than each threshold (float32 [m], ascending), int64 [m]."""
        return self.count - self._below(thresholds, "left")

    def above(self, thresholds: Scores) -> NDArray[np.int64]:
        """How many scores are greater than each threshold (float32 [m], ascending), int64 [m]."""
        return self.count - self._below(thresholds, "right")

    def descending(self, piece_scores: int = PIECE_SCORES) -> Iterator[Piece]:
        """All scores, which must have weights, from the highest down, in pieces; equal scores are always in one piece.

        The lowest score of a piece is not read but counted by binary search: there may be any number of it.
        """
        runs = self._runs()
        ends = [run.scores.size for run in runs]
        step = max(1, piece_scores // max(1, len(runs)))
        while any(ends):
            lowest = max(run.scores[max(0, end - step)] for run, end in zip(runs, ends, strict=True) if end)
            first = [int(np.searchsorted(run.scores, lowest, "left")) for run in runs]
            middle = [int(np.searchsorted(run.scores, lowest, "right")) for run in runs]
            yield _piece(runs, first, middle, ends, lowest)
            ends = first

    def _below(self, thresholds: Scores, side: Literal["left", "right"]) -> NDArray[np.int64]:
        below = np.zeros(thresholds.size, np.int64)
        for run in self._runs():
            below += np.searchsorted(run.scores, thresholds, side)
        return below

    def _runs(self) -> list[Run]:
        if self._parts and self._in_memory is None:
            self._in_memory = _sorted(self._parts)
            self._parts = [(self._in_memory.scores, np.diff(self._in_memory.below))]
        return [*self._on_disk, *([self._in_memory] if self._in_memory else [])]


def _sorted(parts: list[tuple[Scores, Weights]]) -> Run:
    scores = np.concatenate([part for part, _ in parts])
    weights = np.concatenate([part for _, part in parts])
    if not weights.size:
        scores.sort()
        return Run(scores, weights)
    order = np.argsort(scores)
    return Run(scores[order], np.concatenate([[0.0], np.cumsum(weights[order])]))


def _mapped(array: NDArray[Any]) -> NDArray[Any]:
    """The array in a temporary file."""
    try:
        with tempfile.TemporaryFile(prefix="agvas-scores-") as file:
            array.tofile(file)
            file.flush()
            return np.memmap(file, array.dtype, "r", shape=array.shape)  # keeps the file open by itself
    except OSError as error:
        place = tempfile.gettempdir()
        raise EngineError(f"{place}: cannot keep {array.nbytes >> 20} MiB of scores there: {error}") from None


def _piece(runs: list[Run], first: list[int], middle: list[int], ends: list[int], lowest: np.float32) -> Piece:
    """The scores [middle, end) of every run, and after them the score `lowest`, which are those of [first, middle)."""
    spans = list(zip(runs, first, middle, ends, strict=True))
    scores = np.concatenate([run.scores[begin:end] for run, _, begin, end in spans])
    weights = np.concatenate([np.diff(run.below[begin : end + 1]) for run, _, begin, end in spans])
    order = np.argsort(scores)[::-1]
    scores = scores[order]
    begins = np.flatnonzero(np.diff(scores, prepend=np.float32(np.inf)))
    sums = np.add.reduceat(weights[order], begins) if begins.size else np.empty(0)
    count = sum(end - begin for _, begin, end, _ in spans)
    weight = sum(float(run.below[end] - run.below[begin]) for run, begin, end, _ in spans)
    counts = np.diff(begins, append=scores.size)
    return Piece(np.append(scores[begins], lowest), np.append(counts, count), np.append(sums, weight))
