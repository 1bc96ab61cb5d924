"""Where frames wait for an engine: a bounded queue a camera, fair turns between them. It knows no gRPC and no engine.

No ticket is answered while the lock is held: whoever waits for the answer may come back in at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from threading import Condition, Lock, Thread
from time import perf_counter

from agvas_runtime.server.lane import Lane as Lane
from agvas_runtime.server.lane import Policy as Policy
from agvas_runtime.server.lane import Turns
from agvas_runtime.server.ticket import Answered as Answered
from agvas_runtime.server.ticket import Fate as Fate
from agvas_runtime.server.ticket import NoResult as NoResult
from agvas_runtime.server.ticket import Ticket as Ticket

LONGEST_WAIT_S = 3600.0


class Lanes:
    """All queues. Dispatchers `take` from them."""

    def __init__(self) -> None:
        self.lock = Lock()
        self._work, self._clock, self._idle = (Condition(self.lock) for _ in range(3))
        self._lanes: set[Lane] = set()
        self._turns = Turns()
        self._retries: deque[Ticket] = deque()
        self._open: dict[Ticket, Lane] = {}
        """Every ticket that was queued and is not answered: it waits, or an engine has it."""
        self._refusal = self._failure = ""
        self._stopped = False
        self._earliest = inf
        """No frame that waits has an earlier deadline."""
        self._watch: Thread | None = None

    @property
    def unanswered(self) -> int:
        """Frames that wait, or that engines have."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Frames that no engine has."""
        with self.lock:
            return len(self._all_waiting())

    def open(self, name: str, policy: Policy, capacity: int) -> Lane:
        """A queue for so many frames, besides those that engines have. The name is for people."""
        lane = Lane(self, name, policy, capacity)
        with self.lock:
            self._lanes.add(lane)
        return lane

    def take(
        self, best_batch: int, timeout_s: float, wanted: Callable[[Ticket], bool] = lambda ticket: True
    ) -> list[Ticket]:
        """The next frame for an engine, and others that can be segmented with it, if they are there already.

        One whose engine died goes first and alone, so that it takes no other with it. Otherwise lanes have turns, a
        frame a turn, each its oldest. Whoever takes a ticket must call its `end`.

        Args:
            best_batch: most frames.
            timeout_s: how long to wait for one; it may return earlier, with nothing.
            wanted: frames for which it is false are left where they are. Called with the lock held.
        """
        with self.lock:
            late, taken = self._late(), self._next(best_batch, wanted)
            if not late and not taken:
                self._work.wait(timeout_s)
                late, taken = self._late(), self._next(best_batch, wanted)
        for ticket in late:
            ticket.give_up(ticket.expired())
        return [ticket for ticket in taken if ticket.begin()]

    def wake(self) -> None:
        """What `wanted` says may have changed."""
        with self.lock:
            self._work.notify_all()

    def retry(self, ticket: Ticket, reason: str) -> None:
        """The engine died on a frame that was taken: it goes to the front; the second time it is ENGINE_FAILED.

        Call its `end` first.
        """
        ticket.attempts += 1
        if ticket.attempts == 1:
            self.give_back(ticket)
        else:
            error = f"the engine died twice on this frame, the last time: {reason}"
            ticket.give_up(NoResult(Fate.ENGINE_FAILED, error))

    def give_back(self, ticket: Ticket) -> None:
        """A frame that was taken goes to the front: no engine began with it. Call its `end` first."""
        with self.lock:
            error = self._closed_to_retries()
            if error is None and ticket in self._open:
                self._retries.append(ticket)
                self._note_deadline(ticket)
                self._work.notify_all()
        if error is not None:
            ticket.give_up(error)

    def fail(self, reason: str) -> None:
        """No engine is ready for now: waiting frames and new ones are answered ENGINE_FAILED until `recover`."""
        with self.lock:
            self._failure = reason
            given_up = self._clear()
        for ticket in given_up:
            ticket.give_up(NoResult(Fate.ENGINE_FAILED, reason))

    def recover(self) -> None:
        """An engine is ready again."""
        with self.lock:
            self._failure = ""

    def refuse(self, reason: str) -> None:
        """Answer new frames REFUSED from now on, also those that wait for room; what was queued stays."""
        with self.lock:
            self._refusal = reason
            self._wake_offers()

    def wait_drained(self, timeout_s: float) -> bool:
        """Wait until every frame that was queued is answered; false where that took too long."""
        with self.lock:
            return self._idle.wait_for(lambda: not self._open, timeout_s)

    def close(self, reason: str) -> None:
        """Nobody takes frames any more: waiting ones and new ones are answered REFUSED."""
        with self.lock:
            self._refusal, self._stopped = reason, True
            given_up = self._clear()
            self._clock.notify_all()
            self._work.notify_all()
        for ticket in given_up:
            ticket.give_up(NoResult(Fate.REFUSED, reason))

    def admit(self, lane: Lane, ticket: Ticket) -> None:
        """See `Lane.offer`."""
        ticket.outcome.add_done_callback(lambda _: self._forget(lane, ticket))
        with self.lock:
            error = self._wait_for_room(lane, ticket)
            dropped = None if error else self._queue(lane, ticket)
        if dropped is not None:
            dropped.give_up(NoResult(Fate.DROPPED, "a newer frame of this camera took its place"))
        if error is not None:
            ticket.give_up(error)

    def leave(self, lane: Lane) -> None:
        """See `Lane.close`."""
        with self.lock:
            lane.closed = True
            self._lanes.discard(lane)
            lane.room.notify_all()
            its = [ticket for ticket, of in self._open.items() if of is lane]
        for ticket in its:
            ticket.cancel()

    def _wait_for_room(self, lane: Lane, ticket: Ticket) -> NoResult | None:
        """Why the frame cannot be queued; None where it can."""
        while True:
            if lane.closed or ticket.settled:
                return NoResult(Fate.CANCELLED, "the caller went away")
            if self._refusal:
                return NoResult(Fate.REFUSED, self._refusal)
            if self._failure:
                return NoResult(Fate.ENGINE_FAILED, self._failure)
            if ticket.deadline <= perf_counter():
                return ticket.expired()
            if lane.policy == "latest" or len(lane.queue) < lane.capacity:
                return None
            lane.room.wait(_wait_s(ticket.deadline))

    def _queue(self, lane: Lane, ticket: Ticket) -> Ticket | None:
        """Queue a frame; returns the one that made room for it."""
        dropped = lane.queue.popleft() if len(lane.queue) >= lane.capacity else None
        lane.queue.append(ticket)
        self._open[ticket] = lane
        self._turns.join(lane)
        self._note_deadline(ticket)
        self._work.notify_all()
        return dropped

    def _next(self, best_batch: int, wanted: Callable[[Ticket], bool]) -> list[Ticket]:
        for ticket in self._retries:
            if wanted(ticket):
                self._retries.remove(ticket)
                return [ticket]
        return self._turns.next(best_batch, wanted)

    def _forget(self, lane: Lane, ticket: Ticket) -> None:
        """It is answered, so it waits nowhere any more."""
        with self.lock:
            self._open.pop(ticket, None)
            self._pull(lane, ticket)
            lane.room.notify_all()
            if not self._open:
                self._idle.notify_all()

    def _pull(self, lane: Lane, ticket: Ticket) -> None:
        """Take a frame out of the queue that it waits in, if it does."""
        for queue in (lane.queue, self._retries):
            with suppress(ValueError):
                queue.remove(ticket)

    def _closed_to_retries(self) -> NoResult | None:
        if self._stopped:
            return NoResult(Fate.REFUSED, self._refusal)
        return NoResult(Fate.ENGINE_FAILED, self._failure) if self._failure else None

    def _all_waiting(self) -> list[Ticket]:
        return [*self._retries, *(ticket for lane in self._lanes for ticket in lane.queue)]

    def _clear(self) -> list[Ticket]:
        """Everything that waits, taken out of the queues."""
        waiting = self._all_waiting()
        self._retries.clear()
        for lane in self._lanes:
            lane.queue.clear()
        self._wake_offers()
        return waiting

    def _wake_offers(self) -> None:
        for lane in self._lanes:
            lane.room.notify_all()

    def _late(self) -> list[Ticket]:
        """What waited until its deadline passed, taken out of the queues."""
        now = perf_counter()
        if now < self._earliest:
            return []
        waiting = self._all_waiting()
        late = [ticket for ticket in waiting if ticket.deadline <= now]
        for ticket in late:
            self._pull(self._open[ticket], ticket)
        self._earliest = min((ticket.deadline for ticket in waiting if ticket.deadline > now), default=inf)
        return late

    def _note_deadline(self, ticket: Ticket) -> None:
        """Have the frame expire in time, whether or not anybody takes frames."""
        if ticket.deadline >= self._earliest:
            return
        self._earliest = ticket.deadline
        if self._watch is None:
            self._watch = Thread(target=self._keep_deadlines, name="deadlines", daemon=True)
            self._watch.start()
        self._clock.notify_all()

    def _keep_deadlines(self) -> None:
        while not self._stopped:
            with self.lock:
                late = self._late()
                if not late and not self._stopped:
                    self._clock.wait(_wait_s(self._earliest))
            for ticket in late:
                ticket.give_up(ticket.expired())


def _wait_s(deadline: float) -> float:
    """How long to wait for it at a time: a lock does not wait for ever and a day."""
    return min(deadline - perf_counter(), LONGEST_WAIT_S)
