"""Counting that no answer waits for: it is done a moment later, or when somebody wants to see the figures."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from threading import Event, Lock, Thread

PAUSE_S = 0.05
MOST = 32
"""Things that may be left to do; whoever adds one more does them."""

log = logging.getLogger("agvas.later")


class Later:
    """Does things in the order in which they were added. Safe to use from any thread."""

    def __init__(self) -> None:
        self._left: deque[Callable[[], None]] = deque()
        self._some, self._closed = Event(), False
        self._doing = Lock()
        Thread(target=self._run, name="later", daemon=True).start()

    def add(self, thing: Callable[[], None]) -> None:
        """To be done; what it raises is logged."""
        self._left.append(thing)
        if len(self._left) > MOST:
            self.settle()
        elif not self._some.is_set():
            self._some.set()

    def settle(self) -> None:
        """Do now what is left to do."""
        with self._doing:
            for _ in range(len(self._left)):
                try:
                    self._left.popleft()()
                except Exception:
                    log.exception("something could not be counted")

    def close(self) -> None:
        """Settle, and end the thread."""
        self._closed = True
        self._some.set()
        self.settle()

    def _run(self) -> None:
        pause = Event()
        while not self._closed:
            self._some.wait()
            pause.wait(PAUSE_S)  # the answer that it is about is on its way meanwhile
            self._some.clear()
            self.settle()
