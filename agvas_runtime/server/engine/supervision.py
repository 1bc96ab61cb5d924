"""Keeps one device's engine process alive: starts another one when it died, and waits longer each time that it did no
work before. It knows no frames and no queues.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock
from time import gmtime, monotonic, strftime, time

from agvas_runtime.console import one_line
from agvas_runtime.server.engine.process import EngineProcess
from agvas_runtime.server.engine.task import EngineFacts

FAILING_AFTER = 3
"""Deaths in a row, without an answer in between, after which frames do not wait for the next start."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
"""Before the second start in a row, and the most that it doubles up to. The first start is at once."""


@dataclass(frozen=True)
class EngineState:
    """What can be said of a device's engine at a moment."""

    device: str
    """CUDA_VISIBLE_DEVICES of it; the server's own where empty."""
    pid: int
    """0 while none is ready."""
    ready: bool
    restarts: int
    last_death: str
    """Empty for none."""
    memory_bytes: int
    """Resident."""
    ms_per_frame: dict[int, float] = field(default_factory=dict)
    """See `EngineFacts`."""


def pause_s(deaths: int) -> float:
    """How long to wait before the next start, after so many deaths in a row."""
    return min(FIRST_PAUSE_S * 2.0 ** min(deaths - 2, 16), LONGEST_PAUSE_S) if deaths > 1 else 0.0


class Supervised:
    """A device's engine process, and what became of those before it. One thread calls `ready`, any thread the rest.

    Args:
        process: the first one, started already.
        start: starts another one.
        changed: called when one is ready, and when it is not any more.
        log: gets a line for every death.
    """

    def __init__(
        self,
        process: EngineProcess,
        start: Callable[[], EngineProcess],
        changed: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self.device = process.spec.device
        self.restarts = 0
        self.last_death = ""
        """How the last one ended."""
        self._name = f"engine of device {self.device}" if self.device else "engine"
        self.reason = f"the {self._name} is starting"
        """Why none is ready, while that is so."""
        self._start, self._changed, self._log = start, changed, log
        self._process: EngineProcess | None = process
        self._ready = process.facts is not None
        self._deaths = 0
        self._resume = 0.0
        """When the next one may be started, by the monotonic clock."""
        self._ended = Event()
        self._lock = Lock()

    @property
    def process(self) -> EngineProcess | None:
        """The one that is ready."""
        return self._process if self._ready else None

    @property
    def facts(self) -> EngineFacts | None:
        """Of the process that is ready."""
        process = self.process
        return None if process is None else process.facts

    @property
    def failing(self) -> bool:
        """Whether frames should not wait for the next one."""
        return not self._ready and self._deaths >= FAILING_AFTER

    def state(self) -> EngineState:
        """A picture of it."""
        process = self.process
        facts = None if process is None else process.facts
        return EngineState(
            device=self.device,
            pid=facts.pid if facts else 0,
            ready=facts is not None,
            restarts=self.restarts,
            last_death=self.last_death,
            memory_bytes=process.memory_bytes() if process else 0,
            ms_per_frame=dict(facts.ms_per_frame) if facts else {},
        )

    def ready(self) -> EngineProcess | None:
        """The process that is ready, as soon as there is one; None after `end`."""
        while not self._ended.wait(max(self._resume - monotonic(), 0)):
            process = None
            try:
                process = self._current()
                if process is None or self._ready:
                    return process
                process.wait_ready()
            except Exception as error:  # whatever it is: without this thread there would be no engine ever again
                self.died(process, str(error) or type(error).__name__)
            else:
                self._is_ready(process)
        return None

    def answered(self) -> None:
        """It did some work: its next death is the first one again."""
        self._deaths = 0

    def died(self, process: EngineProcess | None, reason: str) -> None:
        """A process is dead, or (None) none can be started. Told twice of the same one, it does nothing."""
        with self._lock:
            if process is not self._process:
                return
            lived, self._process, self._ready = self._ready, None, False
            if not self._ended.is_set():
                self._note_death(process, reason, lived)
        if process is not None:
            process.close(0.0)
        self._changed()

    def end(self) -> None:
        """Start no other one, and end one that is not ready."""
        with self._lock:
            self._ended.set()
            starting = None if self._ready else self._process
        if starting is not None:
            starting.kill()

    def kill(self) -> None:
        """Do not wait for what it still does."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """After `end`: it has nothing more to do."""
        with self._lock:
            process, self._process, self._ready = self._process, None, False
        if process is not None:
            process.close()

    def _current(self) -> EngineProcess | None:
        """The process, ready or not; started where there is none. None after `end`."""
        with self._lock:
            if self._ended.is_set():
                return None
            if self._process is None:
                self.restarts += 1
                self._process = self._start()
            return self._process

    def _is_ready(self, process: EngineProcess) -> None:
        with self._lock:
            self._ready = self._process is process
        if self.restarts:
            self._log.info("%s, pid %d: ready again", self._name, process.pid)
        self._changed()

    def _note_death(self, process: EngineProcess | None, reason: str, lived: bool) -> None:
        self._deaths += 1
        pause = pause_s(self._deaths)
        self._resume = monotonic() + pause
        self.last_death = f"{'it died' if lived else 'it could not start'}: {one_line(reason)}"
        count = f", {self._deaths} times in a row without an answer" if self._deaths > 1 else ""
        when = f"at {strftime('%H:%M:%S', gmtime(time() + pause))} UTC" if pause else "now"
        self.reason = f"the {self._name} is not ready: {self.last_death}{count}; next start {when}"
        pid = "" if process is None else f", pid {process.pid}"
        self._log.warning("%s%s: %s%s; next start %s", self._name, pid, self.last_death, count, when)
