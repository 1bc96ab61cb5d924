"""Gives free memory back to the system while no frames come. A line stands still at night."""

from time import monotonic

from agvas_runtime.server import heap
from agvas_runtime.server.engine.arena import Arena

IDLE_S = 5.0


class Idleness:
    """Knows for how long no engine has got a frame."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._since = monotonic()

    def busy(self) -> None:
        """An engine gets a frame."""
        self._since = monotonic()

    def trim(self) -> None:
        """Give memory back, where it is time. Again after a while: what is refused takes memory, too."""
        if monotonic() - self._since >= IDLE_S:
            self._since = monotonic()
            self._arena.trim()
            heap.trim()
