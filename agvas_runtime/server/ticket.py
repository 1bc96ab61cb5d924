"""A frame on its way through the server: what is asked, the block its pixels lie in, and the one answer it gets."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from math import inf
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING

from agvas_runtime.server.engine.task import EngineFacts, FrameResult, Task

if TYPE_CHECKING:
    from agvas_runtime.server.engine.arena import Block


class Fate(Enum):
    """Why a frame has no result though nothing is wrong with it."""

    DROPPED = "dropped"
    """A newer frame of its camera took its place."""
    EXPIRED = "expired"
    """Its deadline passed before an engine was free."""
    ENGINE_FAILED = "engine failed"
    """The engine died twice on it, or no engine is ready."""
    REFUSED = "refused"
    """The server is being stopped."""
    CANCELLED = "cancelled"
    """Whoever asked does not want it any more."""


class NoResult(Exception):
    """A frame is answered without a result; the text says why."""

    def __init__(self, fate: Fate, reason: str) -> None:
        super().__init__(reason)
        self.fate = fate


@dataclass(frozen=True)
class Answered:
    """A frame's result. Its mask and its map lie in the block: whoever is done with them releases it."""

    result: FrameResult
    facts: EngineFacts
    """Of the engine that answered."""
    queue_ms: float
    """From the ticket's making to the moment when this engine got it."""
    block: Block


class Ticket:
    """Holds a frame's block until it is answered, once: by a result, by NoResult, or by the graphs' own error.

    With a result the block goes to whoever reads `outcome`; otherwise it is released here, once no engine uses it.

    Args:
        block: the frame's pixels; the ticket takes over the caller's hold on it.
        task: what is asked.
        deadline: by the performance counter; when it passes before an engine was free, the frame is answered EXPIRED.
        arrived: when the frame came, by the performance counter; now where None.
    """

    def __init__(
        self,
        block: Block,
        task: Task,
        deadline: float | None = None,
        arrived: float | None = None,
        *,
        spare: bool = False,
    ) -> None:
        self.block, self.task, self.spare = block, task, spare
        self.deadline = inf if deadline is None else deadline
        self.queued = perf_counter()
        """When it was made, by the performance counter."""
        self.arrived = self.queued if arrived is None else arrived
        self.attempts = 0
        """How many engines died on it."""
        self.outcome: Future[Answered] = Future()
        """The answer; its exceptions are NoResult, EngineError and InputError."""
        self.outcome.set_running_or_notify_cancel()  # nobody but this class ends it
        self._lock = Lock()
        self._settled = self._running = False

    @property
    def settled(self) -> bool:
        """Whether it is answered, or about to be."""
        return self._settled

    @property
    def waits(self) -> bool:
        """Whether no engine has it, and it has no answer."""
        return not (self._settled or self._running)

    def cancel(self) -> None:
        """It is not wanted any more: answered CANCELLED unless it is answered already."""
        self.give_up(NoResult(Fate.CANCELLED, "the caller went away"))

    def expired(self) -> NoResult:
        """What it is answered when its deadline has passed."""
        allowed_ms = (self.deadline - self.arrived) * 1000
        return NoResult(Fate.EXPIRED, f"the deadline of {allowed_ms:.0f} ms passed before an engine was free")

    def give_up(self, error: Exception) -> None:
        """Answer it without a result, unless it is answered already."""
        with self._lock:
            if self._settled:
                return
            self._settled, free = True, not self._running
        if free:
            self.block.release()
        self.outcome.set_exception(error)

    def begin(self) -> bool:
        """An engine is about to use the block, if true; it keeps it until `end`, whatever becomes of the ticket."""
        with self._lock:
            self._running = not self._settled
            return self._running

    def end(self, answered: Answered | None = None) -> None:
        """The engine does not use the block any more, and has answered or not. The second time it does nothing."""
        with self._lock:
            if not self._running:
                return
            self._running, late = False, self._settled
            self._settled = late or answered is not None
        if late:
            self.block.release()
        elif answered is not None:
            self.outcome.set_result(answered)
