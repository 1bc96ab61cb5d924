"""One step of the load: every camera sends by its schedule, whether or not earlier frames are answered.

How frames are sent and answers are read is in `inspect_target.py` and `kserve_target.py`, what the figures are in
`outcome.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from time import perf_counter
from typing import Protocol

from agvas_runtime.bench.load.schedule import Arrivals, Camera, due_times
from agvas_runtime.errors import InputError

OK, DROPPED, EXPIRED, INVALID = "OK", "DROPPED", "EXPIRED", "INVALID"
NO_ANSWER = "NO_ANSWER"
"""There was none until the end of the step."""
CONNECTION_LOST = "CONNECTION_LOST"
"""The connection broke before there was one, or was never made."""
CONNECT_S = 10.0
"""How long a camera's connection may take."""
LEAD_S = 0.05
"""From the last camera's connection to the begin of the warm-up."""


@dataclass(frozen=True)
class Load:
    """What is sent in every step, and what the server has to keep.

    Attributes:
        arrivals, seed: of the schedule.
        seconds: of a step, those that count.
        warmup_s: ahead of them, in which the same load is sent and not counted.
        wait_s: the longest time that answers are waited for once the last frame was due.
        target_p99_ms: of the latency, a frame without a result being later than any target; None for no target.
        max_miss_share: largest share of missed deadlines; None for no such limit.
    """

    arrivals: Arrivals
    seed: int
    seconds: float
    warmup_s: float
    wait_s: float
    target_p99_ms: float | None = None
    max_miss_share: float | None = None


@dataclass(frozen=True)
class Answer:
    """What came back for a frame, and when, by the performance counter."""

    at: float
    status: str
    engine_ms: float | None = None
    """The engine's own time for this frame, where the server tells it."""
    reason: str = ""
    """Why there is no result."""


@dataclass
class Shot:
    """A frame: when it is due, in seconds from the step's begin, and what became of it."""

    due_s: float
    sent: float | None = None
    """By the performance counter; None for one that never was."""
    late_ms: float = 0.0
    """How much later the generator sent it than it could have."""
    answer: Answer | None = None


@dataclass(frozen=True)
class CameraRun:
    """A camera, its frames in a step, and when the step began by the performance counter."""

    camera: Camera
    shots: list[Shot]
    begin: float


class Pace:
    """The clock of a step, at which all its cameras wait until their next frame is due."""

    def __init__(self) -> None:
        self.begin = 0.0
        """Of the seconds that count, by the performance counter."""
        self._begun, self._over = Event(), Event()

    @property
    def over(self) -> bool:
        """The step has ended: nothing that happens now counts."""
        return self._over.is_set()

    def start(self, in_s: float) -> None:
        """Have the seconds that count begin in so many seconds."""
        self.begin = perf_counter() + in_s
        self._begun.set()

    def stop(self) -> None:
        """Let everybody go who waits here."""
        self._over.set()
        self._begun.set()

    def wait(self, shot: Shot, free: float = 0.0) -> bool:
        """Wait until the frame is due and write down that it is sent; False where the step ended before.

        Args:
            shot: the frame.
            free: when the way was free for it, by the performance counter. What was held back by the server until then
                does not count as the generator's own lateness.
        """
        self._begun.wait()
        due = self.begin + shot.due_s
        self._over.wait(max(due - perf_counter(), 0.0))
        if self.over:
            return False
        shot.sent = perf_counter()
        shot.late_ms = (shot.sent - max(due, free)) * 1e3
        return True


class Station(Protocol):
    """A camera that is connected and sends its frames."""

    def connected(self, until: float) -> None:
        """Return once it is, or at that time. Raises EngineError where it cannot be."""

    def finish(self, until: float) -> None:
        """Return once every frame is answered, or at that time."""

    def close(self) -> None:
        """End it; called when the pace has stopped."""


class Target(Protocol):
    """A server, and how it is asked."""

    @property
    def address(self) -> str:
        """`host:port`."""

    @property
    def protocol(self) -> str:
        """agvas or kserve."""

    @property
    def model(self) -> str:
        """What answers there."""

    @property
    def model_sha256(self) -> str | None:
        """SHA-256 of its bundle's manifest, where the server tells it."""

    def check(self) -> None:
        """Raise EngineError where the server does not answer any more."""

    def open(self, camera: Camera, place: int, shots: list[Shot], pace: Pace) -> Station:
        """Connect a camera, the one at this place among all; it begins when the pace does."""


def run_step(target: Target, cameras: Sequence[Camera], load: Load) -> list[CameraRun]:
    """Put the load of these cameras on a server, once.

    It lasts until every frame is answered, at most `wait_s` beyond the last one's due time. Raises InputError where no
    frame is due in it, EngineError where a camera cannot be connected.
    """
    times = due_times(cameras, load.arrivals, load.seed, -load.warmup_s, load.seconds)
    if not any(due.size and due[-1] >= 0 for due in times):
        raise InputError(f"--seconds: found {load.seconds:g}, in which no frame is due, expected more")
    all_shots = [[Shot(each) for each in due.tolist()] for due in times]
    pace, stations = Pace(), list[Station]()
    try:
        for place, (camera, shots) in enumerate(zip(cameras, all_shots, strict=True)):
            stations.append(target.open(camera, place, shots, pace))
        limit = perf_counter() + CONNECT_S
        for station in stations:
            station.connected(limit)
        pace.start(LEAD_S + load.warmup_s)
        end = pace.begin + max(shots[-1].due_s for shots in all_shots if shots) + load.wait_s
        for station in stations:
            station.finish(end)
    finally:
        pace.stop()
        for station in stations:
            station.close()
    return [CameraRun(camera, shots, pace.begin) for camera, shots in zip(cameras, all_shots, strict=True)]
