"""What two reports have in common: the same stage of the same contender, or the same figure of the same load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 20
"""Frames that are taken together, in the order in which they came: noise of a machine lasts longer than a frame."""
MOST_ELSEWHERE = 0.2
"""Cores that other work may take during a block; a block that had less of the machine says nothing of the program."""
SERVED = ("latency_ms", "overhead_ms", "engine_ms")
"""Of a load on a server."""

Blocks = NDArray[np.float64]
"""Median milliseconds of every block, float64 [blocks]."""


@dataclass(frozen=True)
class Series:
    """One figure of one report.

    Attributes:
        of: the contender, or the load.
        what: the stage, or the figure.
        values_ms: in the order in which they were measured.
        blocks: their medians, block by block; those in which the machine did other work are left out.
        left_out: how many those are.
    """

    of: str
    what: str
    values_ms: list[float]
    blocks: Blocks
    left_out: int

    @property
    def key(self) -> tuple[str, str]:
        """What it is the same figure as in another report."""
        return self.of, self.what


def series_of(report: dict[str, Any]) -> dict[tuple[str, str], Series]:
    """All figures of a report (schema 3, kind engine or serve)."""
    found = _of_engines(report) if report["kind"] == "engine" else _of_loads(report)
    return {each.key: each for each in found if len(each.values_ms)}


def _of_engines(report: dict[str, Any]) -> Iterator[Series]:
    quiet = quiet_turns(report)
    for contender in report["contenders"]:
        for stage, values in contender["samples"]["times_ms"].items():
            if stage != "total":
                yield _series(contender["name"], stage, values, quiet)


def _of_loads(report: dict[str, Any]) -> Iterator[Series]:
    for step in report["steps"]:
        name = f"{step['cameras']} cameras, {step['offered_hz']:g} frames/s"
        for figure in SERVED:
            yield _series(name, figure.removesuffix("_ms"), step["samples"][figure], None)


def quiet_turns(report: dict[str, Any]) -> NDArray[np.bool_] | None:
    """Whether each turn lies in a block without much other work, bool [turns]; None where the report does not say."""
    elsewhere = report.get("elsewhere_ms")
    if not elsewhere:
        return None
    calls = [contender["samples"]["times_ms"]["call"] for contender in report["contenders"]]
    wall_ms = np.array(report["yardstick_ms"], float) + np.sum(np.array(calls, float), axis=0)
    quiet = np.zeros(len(wall_ms), bool)
    for block in blocks_of(len(wall_ms)):
        quiet[block] = sum(elsewhere[block]) <= MOST_ELSEWHERE * wall_ms[block].sum()
    return quiet


def blocks_of(count: int) -> list[slice]:
    """So many turns in blocks; what is left over belongs to the last one."""
    ends = [*range(0, max(count - BLOCK, 0) + 1, BLOCK), count]
    ends = ends[:-2] + ends[-1:] if len(ends) > 2 and ends[-1] - ends[-2] < BLOCK else ends
    return [slice(first, last) for first, last in pairwise(ends) if last > first]


def _series(of: str, what: str, values: Sequence[float | None], quiet: NDArray[np.bool_] | None) -> Series:
    medians, left_out = [], 0
    for block in blocks_of(len(values)):
        some = [value for value in values[block] if value is not None and value > 0]
        if quiet is not None and not quiet[block].all():
            left_out += 1
        elif len(some) * 2 >= len(values[block]):
            medians.append(float(np.median(some)))
    return Series(of, what, [value for value in values if value is not None], np.array(medians), left_out)
