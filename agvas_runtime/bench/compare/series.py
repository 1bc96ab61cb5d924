"""What two reports have in common: the same stage of the same contender, or the same figure of the same load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 20
"""Turns whose disturbance is looked at together: the kernel counts processor time in ticks of 10 ms."""
MOST_ELSEWHERE = 0.1
"""Share of the machine's cores that other work may take during a block."""
MOST_SLOWED = 1.25
"""How many times as long as in the better one of both reports the yardstick may take: where it takes longer, the
machine was slower, whatever the kernel counts. A block that had less of the machine says nothing of the program."""
SERVED = ("latency_ms", "overhead_ms", "engine_ms")
"""Of a load on a server."""


@dataclass(frozen=True)
class Series:
    """One figure of one report.

    Attributes:
        of: the contender, or the load.
        what: the stage, or the figure.
        values_ms: in the order in which they were measured, without those of turns in which the machine did other work.
    """

    of: str
    what: str
    values_ms: list[float]

    @property
    def key(self) -> tuple[str, str]:
        """What it is the same figure as in another report."""
        return self.of, self.what


Found = dict[tuple[str, str], Series]


def series_of(report: dict[str, Any], fastest_ms: float | None = None) -> Found:
    """All figures of a report (schema 3, kind engine or serve), see `fastest`."""
    found = _of_engines(report, fastest_ms) if report["kind"] == "engine" else _of_loads(report)
    return {each.key: each for each in found}


def fastest(*reports: dict[str, Any]) -> float | None:
    """The yardstick's median in the report where it is lowest, in milliseconds; None where it was not measured."""
    return min((float(np.median(each["yardstick_ms"])) for each in reports if each.get("yardstick_ms")), default=None)


def times_of(report: dict[str, Any]) -> dict[tuple[str, str], list[float | None]]:
    """Every stage of every contender of `engine`, turn by turn, milliseconds; None where a call had no such stage."""
    return {
        (contender["name"], stage): values
        for contender in report["contenders"]
        for stage, values in contender["samples"]["times_ms"].items()
        if stage != "total"
    }


def _of_engines(report: dict[str, Any], fastest_ms: float | None) -> Iterator[Series]:
    quiet = quiet_turns(report, fastest_ms)
    for (name, stage), values in times_of(report).items():
        yield _series(name, stage, values, quiet)


def _of_loads(report: dict[str, Any]) -> Iterator[Series]:
    for step in report["steps"]:
        for figure in SERVED:
            yield _series(load_name(step), figure.removesuffix("_ms"), step["samples"][figure], None)


def misses_of(report: dict[str, Any]) -> dict[str, tuple[float, int]]:
    """Of every load the share of frames that had no result or came too late, and of how many; of engines nothing."""
    steps = report["steps"] if report["kind"] == "serve" else ()
    return {load_name(step): (step["miss_share"], step["sent"]) for step in steps}


def load_name(step: dict[str, Any]) -> str:
    """What a step's load is called: its cameras, their rates and deadlines."""
    kinds = Counter((camera["rate_hz"], camera["deadline_ms"] or 0) for camera in step["per_camera"])
    told = (
        f"{count} x {rate:g} Hz" + (f" in {deadline:g} ms" if deadline else "")
        for (rate, deadline), count in sorted(kinds.items())
    )
    return "cameras: " + ", ".join(told)


def quiet_turns(report: dict[str, Any], fastest_ms: float | None) -> NDArray[np.bool_]:
    """Whether each turn lies in a block in which the program had the whole machine, bool [turns]."""
    calls = [contender["samples"]["times_ms"]["call"] for contender in report["contenders"]]
    yardstick_ms, elsewhere_ms = np.array(report["yardstick_ms"], float), np.array(report["elsewhere_ms"], float)
    wall_ms = yardstick_ms + np.sum(np.array(calls, float), axis=0)
    cores = report["machine"].get("cores_usable") or 1
    quiet = np.zeros(len(wall_ms), bool)
    for block in blocks_of(len(wall_ms)):
        alone = elsewhere_ms[block].sum() <= MOST_ELSEWHERE * cores * wall_ms[block].sum()
        quiet[block] = alone and np.median(yardstick_ms[block]) <= MOST_SLOWED * (fastest_ms or np.inf)
    return quiet


def blocks_of(count: int) -> list[slice]:
    """So many turns in blocks; what is left over belongs to the last one."""
    ends = [*range(0, max(count - BLOCK, 0) + 1, BLOCK), count]
    ends = ends[:-2] + ends[-1:] if len(ends) > 2 and ends[-1] - ends[-2] < BLOCK else ends
    return [slice(first, last) for first, last in pairwise(ends) if last > first]


def _series(of: str, what: str, values: Sequence[float | None], quiet: NDArray[np.bool_] | None) -> Series:
    wanted = np.ones(len(values), bool) if quiet is None else quiet
    return Series(of, what, [value for value, quiet in zip(values, wanted, strict=True) if quiet and value is not None])
