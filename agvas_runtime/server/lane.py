"""One camera's queue of frames, and the turns that such queues have. `Lanes` guards both by its lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import TYPE_CHECKING, Literal

from agvas_runtime.server.ticket import Ticket

if TYPE_CHECKING:
    from agvas_runtime.server.lanes import Lanes

Policy = Literal["latest", "block"]
"""What happens where a frame finds its queue full: the oldest one there makes room, or the new one waits for room."""


class Lane:
    """One camera's queue, first in, first out. `Lanes.open` makes it."""

    def __init__(self, lanes: Lanes, name: str, policy: Policy, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"lane {name}: found room for {capacity} frames, expected at least 1")
        self.name, self.policy, self.capacity = name, policy, capacity
        self.queue: deque[Ticket] = deque()
        """Guarded by the lanes' lock, as everything below."""
        self.room = Condition(lanes.lock)
        self.in_turns = self.closed = False
        self._lanes = lanes

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        return len(self.queue)

    def offer(self, ticket: Ticket) -> None:
        """Queue a frame; one that cannot be queued is answered at once.

        Where the policy is to block it waits until there is room, the ticket is answered (its deadline counts here,
        too), the lane is closed, or no frames are taken any more.
        """
        self._lanes.admit(self, ticket)

    def close(self) -> None:
        """The caller is gone: cancel what is not answered yet, also what an engine has."""
        self._lanes.leave(self)


class Turns:
    """Lanes with frames, the next one to be served first."""

    def __init__(self) -> None:
        self._lanes: deque[Lane] = deque()  # some may be empty by now

    def join(self, lane: Lane) -> None:
        """It has frames; unless it waits for its turn already it is the last one in line."""
        if not lane.in_turns:
            lane.in_turns = True
            self._lanes.append(lane)

    def next(self, most: int, wanted: Callable[[Ticket], bool]) -> list[Ticket]:
        """The next frame that is wanted, and in round after round further ones that are asked the same."""
        taken = self._round(1, wanted)
        if not taken or taken[0].task.long:
            return taken
        key, more = taken[0].task.batch_key, taken
        while more and len(taken) < most:
            more = self._round(most - len(taken), lambda other: other.task.batch_key == key and wanted(other))
            taken += more
        return taken

    def _round(self, most: int, fits: Callable[[Ticket], bool]) -> list[Ticket]:
        """At most one frame of every lane, its oldest, in turn. A lane that gave none keeps its place."""
        taken: list[Ticket] = []
        passed: list[Lane] = []
        served: list[Lane] = []
        while self._lanes and len(taken) < most:
            lane = self._lanes.popleft()
            if lane.queue and not fits(lane.queue[0]):
                passed.append(lane)
                continue
            if lane.queue:
                taken.append(lane.queue.popleft())
                lane.room.notify_all()
            lane.in_turns = bool(lane.queue)
            if lane.in_turns:
                served.append(lane)
        self._lanes.extendleft(reversed(passed))
        self._lanes.extend(served)
        return taken
