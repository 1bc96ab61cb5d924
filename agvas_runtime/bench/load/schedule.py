"""Which cameras there are, and when each of their frames is due: all of it known before the first one is sent."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError

MOST_CAMERAS, FASTEST_HZ = 1000, 10_000.0
_NUMBER = r"\d+(?:\.\d+)?"
_CAMERA = re.compile(rf"({_NUMBER})(?::({_NUMBER}))?(?:x(\d+))?")


class Arrivals(str, Enum):
    """How a camera's frames follow each other."""

    CONSTANT = "constant"
    """Evenly; the cameras' phases are spread over a period, so that they do not send at once."""
    POISSON = "poisson"
    """By chance, at the same mean rate: gaps are exponentially distributed, and frames come in bunches."""


@dataclass(frozen=True)
class Camera:
    """A camera of the load.

    Attributes:
        name: also the camera's id at the server.
        rate_hz: frames a second, on average.
        deadline_ms: from the moment a frame is due to its answer; None for no deadline.
    """

    name: str
    rate_hz: float
    deadline_ms: float | None


def read_cameras(texts: Sequence[str]) -> list[Camera]:
    """The cameras of texts `RATE_HZ[:DEADLINE_MS][xN]`, as in 30:33 or 5:200x3. Raises InputError."""
    found: list[Camera] = []
    for text in texts:
        match = _CAMERA.fullmatch(text)
        if match is None:
            raise InputError(f"--camera: found {text!r}, expected RATE_HZ[:DEADLINE_MS][xN], as in 30:33 or 5:200x3")
        rate_hz, count = float(match[1]), int(match[3] or 1)
        deadline_ms = None if match[2] is None else float(match[2])
        if not 0 < rate_hz <= FASTEST_HZ:
            raise InputError(f"--camera: found {match[1]} Hz in {text!r}, expected above 0, at most {FASTEST_HZ:g}")
        if deadline_ms is not None and not 0 < deadline_ms < 1e9:
            raise InputError(f"--camera: found a deadline of {match[2]} ms in {text!r}, expected above 0, below 1e9")
        if not 1 <= count <= MOST_CAMERAS - len(found):
            raise InputError(f"--camera: found {count} cameras in {text!r}, expected 1 to {MOST_CAMERAS} in all")
        found += [Camera("", rate_hz, deadline_ms)] * count
    return dealt(found, len(found))


def dealt(cameras: Sequence[Camera], count: int) -> list[Camera]:
    """So many cameras, of these kinds in turn, each with a name of its own."""
    return [replace(cameras[place % len(cameras)], name=f"camera-{place + 1}") for place in range(count)]


def due_times(
    cameras: Sequence[Camera], arrivals: Arrivals, seed: int, begin_s: float, end_s: float
) -> list[NDArray[np.float64]]:
    """When the frames of each camera are due, ascending, in seconds from `begin_s` to below `end_s`.

    With CONSTANT, camera i of n begins i / n of its period late. With POISSON the times come from the seed and the
    camera's place alone, so a camera sends the same in every step.
    """
    times: list[NDArray[np.float64]] = []
    for place, camera in enumerate(cameras):
        if arrivals is Arrivals.CONSTANT:
            numbers = np.arange(math.ceil((end_s - begin_s) * camera.rate_hz), dtype=np.float64)
            due = begin_s + (numbers + place / len(cameras)) / camera.rate_hz
        else:
            due = begin_s + _poisson(np.random.default_rng((seed, place)), camera.rate_hz, end_s - begin_s)
        times.append(due[due < end_s])
    return times


def _poisson(random: np.random.Generator, rate_hz: float, span_s: float) -> NDArray[np.float64]:
    """Arrival times from 0 on that reach beyond the span."""
    mean = span_s * rate_hz
    times = np.cumsum(random.exponential(1 / rate_hz, int(mean + 10 * math.sqrt(mean) + 10)))
    while times[-1] < span_s:
        times = np.append(times, times[-1] + random.exponential(1 / rate_hz))
    return times
