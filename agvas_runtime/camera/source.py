"""What a camera is to the line: it gives captured frames until it has no more, is lost, or is told to stop.

Every kind of camera has a file of its own beside this one; `addresses.py` finds the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Event
from time import monotonic, time
from typing import Protocol

from agvas_runtime.errors import EngineError
from agvas_runtime.wire import ImageLike

POLL_S = 0.25
"""How often a source that waits for a frame looks whether it is to stop."""
FRAME_S = 2.0
"""How long after a software trigger a frame may come."""
SILENCE_S = 10.0
"""A camera that runs by itself gives a frame at least this often."""
MOST_MISSING = 1000
"""A larger gap between the numbers of two frames is told as one part, not as so many."""
LARGEST_16_BITS = 65_535
"""The last number of a GigE Vision camera that counts with 16 bits: 1 comes next."""
MOST_WRAPPED = 100
"""Frames that may be lost there; beyond that a smaller number is a counter that began anew."""
NO_NUMBER = 2**64 - 1
"""What drivers say of a frame whose number they do not know."""


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Captured:
    """One trigger of a camera, and the frame that came of it."""

    image: ImageLike | None
    """As it came from the sensor; None where `broken` says why there is none."""
    trigger_id: str = ""
    """The camera's own number of the frame."""
    part_id: str = ""
    broken: str = ""
    """Why the frame is not complete: it must not be judged. Empty for a good one."""
    capture_time: datetime = field(default_factory=_now)
    at: float = field(default_factory=monotonic)
    """The same by the monotonic clock: deadlines count from here."""


class SourceLostError(EngineError):
    """The camera is not there, or went away: opening it again may help."""


class Source(Protocol):
    """A camera, or what stands for one."""

    @property
    def name(self) -> str:
        """As people know it; without passwords."""

    def frames(self, stopping: Event) -> Generator[Captured, None, None]:
        """Open the camera and yield what it captures; the camera is closed when the iterator is.

        Ends where there are no more frames, or soon after `stopping` is set. Whoever iterates does so without delay:
        the camera's own buffers are few.

        Raises:
            SourceLostError: the camera cannot be opened, or was lost.
            InputError: it can never work as it was asked for: an unknown feature, a wrong file.
        """


@dataclass(frozen=True)
class CaptureOptions:
    """How a camera is to capture."""

    fps: float | None = None
    """Frames a second of folders, video files and software triggers; each source's own where None, 0: no pause."""
    loop: bool = False
    """Folders and video files begin anew at their end."""
    trigger: str = "free"
    """`free`, `software`, or the input of a hardware trigger, by the camera's own name (Line1)."""
    features: Mapping[str, str] = field(default_factory=dict)
    """GenICam features that are set before anything is captured, in this order."""

    @property
    def runs_free(self) -> bool:
        """Whether the camera gives frames without being asked for them."""
        return self.trigger == "free" and "TriggerMode" not in self.features

    def trigger_features(self) -> dict[str, str]:
        """The GenICam features that choose this trigger."""
        if self.trigger == "free":
            return {"TriggerMode": "Off"} if self.runs_free else {}
        source = "Software" if self.trigger == "software" else self.trigger
        return {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": source}


class Pace:
    """So many triggers a second; what came too late is not made up for."""

    def __init__(self, fps: float) -> None:
        self._period = 1 / fps if fps > 0 else 0.0
        self._due = monotonic()

    def wait(self, stopping: Event) -> bool:
        """Wait for the next trigger; false where it is time to stop instead."""
        if stopping.wait(max(0.0, self._due - monotonic())):
            return False
        self._due = max(self._due + self._period, monotonic())
        return True


class SoftwareTrigger:
    """Triggers a camera so that each trigger gets a frame of its own, or none: never one that an earlier trigger owes.

    Args:
        pace: of the triggers.
        execute: triggers the camera.
        restart: stops the acquisition, throws away what has come of it, and starts it again.
    """

    def __init__(self, pace: Pace, execute: Callable[[], object], restart: Callable[[], object]) -> None:
        self._pace, self._execute, self._restart, self._owed = pace, execute, restart, False

    def next(self, stopping: Event) -> bool:
        """Wait for the time of the next trigger, and trigger; false where it is time to stop instead."""
        if not self._pace.wait(stopping):
            return False
        if self._owed:
            self._restart()
            self._owed = False
        self._execute()
        return True

    def missed(self) -> Captured:
        """The part of the last trigger: no frame came in time."""
        self._owed = True
        return Captured(None, broken=f"no frame came within {FRAME_S:g} s of the trigger")


class FrameNumbers:
    """Notices by the camera's own numbers that frames have never arrived.

    Not for software triggers: there each trigger is a part, whatever number its frame has.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def missing(self, number: int) -> Iterator[Captured]:
        """The frames between the last number and this one, each as a broken one; more than MOST_MISSING as one part."""
        if number == NO_NUMBER:
            self.unnamed()
            return
        last, self._last = self._last, number
        if last is None:
            return
        first, end, count = last + 1, number - 1, number - last - 1
        if count > MOST_MISSING:
            told = f"{count} frames of the camera, {first} to {end}, never arrived"
            yield Captured(None, f"{first}-{end}", broken=told)
            return
        lost = range(first, number) if number > last else self._wrapped(last, number)
        for each in lost:
            yield Captured(None, str(each), broken=f"frame {each} of the camera never arrived")

    @staticmethod
    def _wrapped(last: int, number: int) -> Sequence[int]:
        """The numbers from the last one through 65535 to this one; none where the counter has begun anew instead."""
        if last > LARGEST_16_BITS or LARGEST_16_BITS - last + number - 1 > MOST_WRAPPED:
            return ()
        return [*range(last + 1, LARGEST_16_BITS + 1), *range(1, number)]

    def unnamed(self) -> None:
        """A frame has come that does not say its number: the next one."""
        if self._last is not None:
            self._last += 1


class Pulse:
    """Notices that a camera which runs by itself gives nothing any more; one that waits for triggers may be silent."""

    def __init__(self, name: str, options: CaptureOptions) -> None:
        self._name, self._last = name, monotonic()
        self._free = options.runs_free

    def beat(self) -> None:
        """There is a frame."""
        self._last = monotonic()

    def check(self) -> None:
        """Raise SourceLostError where the last frame is too long ago."""
        if self._free and monotonic() - self._last > SILENCE_S:
            raise SourceLostError(f"{self._name}: no frame for {SILENCE_S:g} s")


def captured_ago(seconds: float) -> tuple[datetime, float]:
    """Wall clock and monotonic clock of a moment that is so long ago."""
    seconds = max(0.0, seconds)
    return datetime.fromtimestamp(time() - seconds, timezone.utc), monotonic() - seconds
