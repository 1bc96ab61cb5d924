"""One camera at work: what it captures goes to the server, and its gate gets a decision for every part in any case.

Three threads: `capture` reads the camera and opens it anew when it is lost, `uplink` does the same with the server, and
`watch` decides what nobody has answered in time. Whatever hangs, `watch` goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Thread
from time import monotonic
from typing import Literal

from agvas_runtime.asked import Asked
from agvas_runtime.camera.connection import CONNECT_S, AnyClient, Pause, Session
from agvas_runtime.camera.gate import Gate, Part
from agvas_runtime.camera.source import Source
from agvas_runtime.client import AccessDeniedError
from agvas_runtime.errors import EngineError, InputError

Policy = Literal["latest", "block"]

HEARTBEAT_MS = 500
SILENCE_S = 2.0
"""A server that is there says something four times in this time."""
STOP_S = 5.0
"""How long a camera may take to stop; a driver that hangs is left behind."""
FAREWELL_S = 1.0
"""How long a server may take to end the stream of a line that has ended."""
MOST_WAITING = 8
"""With `block`, parts that wait for their answers; a camera that gave more would get old answers."""


@dataclass(frozen=True)
class Turn:
    """The camera or the server came or went."""

    camera_id: str
    what: Literal["camera", "server"]
    up: bool
    reason: str = ""


@dataclass
class LinePlan:
    """What is asked of the server, and how."""

    policy: Policy = "latest"
    count: int | None = None
    """Parts, then the line ends; endless where None."""
    silence_s: float = SILENCE_S
    """A server that says nothing for so long is given up and looked for anew."""
    instruction: str | None = None
    asked: Asked = field(default_factory=Asked)


class Line:
    """A camera, its gate and its connection.

    Args:
        source: the camera.
        gate: gets every part of it.
        connect: makes a client; nothing is connected by that.
        plan: what is asked.
        turned: told when camera or server come or go; it must not wait for anything.
    """

    def __init__(
        self,
        source: Source,
        gate: Gate,
        connect: Callable[[], AnyClient],
        plan: LinePlan,
        turned: Callable[[Turn], None] = lambda turn: None,
    ) -> None:
        self.source, self.gate, self.camera_up = source, gate, False
        self.failure: Exception | None = None
        """Why the line ended before its time: something that no further attempt would change."""
        self.ended = Event()
        self._connect, self._plan, self._turned = connect, plan, turned
        self._stopping, self._captured, self._tried, self._closing = Event(), Event(), Event(), Event()
        self._stop_by: float | None = None
        self._session: Session | None = None
        self._away = "not connected yet"
        self._told: dict[str, bool] = {}
        self._ever: set[str] = set()
        """What was there at some time: what is wrong with it now may be right again."""
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Begin; `ended` is set at the end."""
        for task in (self._capture, self._uplink, self._watch):
            self._threads.append(Thread(target=task, name=task.__name__.strip("_"), daemon=True))
            self._threads[-1].start()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads of a line that has ended; a driver that hangs is not waited for any longer."""
        until = monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def stop(self) -> None:
        """Capture nothing more; the parts that are there still get their decisions."""
        self._stop_by = self._stop_by or monotonic() + STOP_S
        self._stopping.set()
        with self.gate.changed:
            self.gate.changed.notify_all()

    @property
    def server_up(self) -> bool:
        """Whether the server takes frames."""
        session = self._session
        return session is not None and session.up

    def _capture(self) -> None:
        self._tried.wait(CONNECT_S)  # the first parts have a server, if there is one
        pause = Pause(self._stopping)
        try:
            while not self._stopping.is_set():
                try:
                    if self._capture_once(pause):
                        return
                    reason = "the camera stopped"
                except EngineError as error:
                    reason = str(error)
                except InputError as error:
                    if "camera" not in self._ever:
                        self._fail(error)
                        return
                    reason = str(error)
                except Exception as error:  # drivers raise what they like, and the line must go on
                    reason = f"{self.source.name}: {type(error).__name__}: {error}"
                self.camera_up = False
                self._tell("camera", False, reason)
                pause()
        finally:
            self._captured.set()
            with self.gate.changed:
                self.gate.changed.notify_all()

    def _capture_once(self, pause: Pause) -> bool:
        """Take what the camera gives; whether the line has all its parts."""
        with closing(self.source.frames(self._stopping)) as frames:
            for captured in frames:
                if not self.camera_up:
                    self.camera_up = True
                    self._tell("camera", True)
                    pause.reset()
                self._take(self.gate.admit(captured))
                if self._plan.count is not None and self.gate.parts >= self._plan.count:
                    return True
        return True

    def _take(self, part: Part) -> None:
        """Send a part on its way, or decide at once that it has none."""
        session = self._session
        if part.captured.broken:
            self.gate.no_answer(part, "invalid", part.captured.broken)
        elif session is None or not session.up:
            self.gate.no_answer(part, "unreachable", self._away)
        else:
            latest = self._plan.policy == "latest"
            for old in session.offer(part, latest):
                gone = old is part
                reason = self._away if gone else "gave way to a newer part before it was sent"
                self.gate.no_answer(old, "unreachable" if gone else "dropped", reason)
            if not latest:
                with self.gate.changed:  # the deadline ends this in any case
                    self.gate.changed.wait_for(lambda: self.gate.waiting < MOST_WAITING or self._stopping.is_set())

    def _uplink(self) -> None:
        pause = Pause(self._closing)
        while not self._closing.is_set():
            try:
                client = self._connect()
            except Exception as error:  # once there was a server, its files are just being replaced
                if "server" not in self._ever:
                    self._fail(error)
                    return
                self._away = str(error)
                self._tell("server", False, self._away)
                pause()
                continue
            session = self._session = Session(client, self.gate, self._plan.silence_s)
            if self._closing.is_set():  # nobody else would end this one
                session.close()
                return
            try:
                for reply in client.inspect(
                    session.frames(),
                    self._plan.instruction,
                    camera_id=self.gate.camera_id,
                    policy=self._plan.policy,
                    heartbeat_ms=HEARTBEAT_MS,
                    on_heartbeat=self._hear(session, pause),
                    on_unsent=session.unsent,
                    **self._plan.asked,
                ):
                    session.heard = monotonic()
                    self.gate.answer(reply)
                self._away = "the server ended the stream"
            except (InputError, EngineError) as error:
                self._away = session.why_closed or str(error)
                if isinstance(error, InputError | AccessDeniedError) and "server" not in self._ever:
                    self._fail(error)
                    return
            except Exception as error:  # whatever it is, the gate goes on by its rule
                self._away = f"{type(error).__name__}: {error}"
                if "server" not in self._ever:
                    self._fail(error)
                    return
            finally:
                self._lose(session)
            if not self._closing.is_set():
                self._tell("server", False, self._away)
                pause()

    def _hear(self, session: Session, pause: Pause) -> Callable[[str], None]:
        def hear(reason: str) -> None:
            session.heard = monotonic()
            if not session.up:
                session.up = True
                pause.reset()
                self._tell("server", True)
                self._tried.set()

        return hear

    def _lose(self, session: Session) -> None:
        """Decide the parts that this connection will not answer any more."""
        for part in session.close():
            self.gate.no_answer(part, "unreachable", self._away)
        self._tried.set()

    def _watch(self) -> None:
        """Decide what is overdue, give up a silent server, notice the end."""
        try:
            while not self._done():
                self.gate.expire()
                session = self._session
                if session is not None and (silent_at := session.silent_at()) and monotonic() >= silent_at:
                    session.give_up("the server is silent")
                with self.gate.changed:
                    if not self._done():
                        self.gate.changed.wait(self._idle_s(session))
        finally:
            self._stopping.set()
            self._closing.set()
            self._hang_up()
            self.gate.abandon(str(self.failure or "the line has ended"))
            self.ended.set()

    def _done(self) -> bool:
        """Whether no part can come any more and none waits; or there is no use in going on."""
        if self.failure is not None:
            return True
        hangs = self._stop_by is not None and monotonic() > self._stop_by
        return (self._captured.is_set() or hangs) and not self.gate.waiting

    def _idle_s(self, session: Session | None) -> float:
        """How long nothing needs to be done unless something happens."""
        times = (self.gate.next_deadline(), session.silent_at() if session is not None else None)
        return max(0.0, min([1.0, *(time - monotonic() for time in times if time is not None)]))

    def _hang_up(self) -> None:
        """End the connection as the protocol has it, or in any case."""
        session = self._session
        if session is not None:
            session.finish()
            if not session.over.wait(FAREWELL_S):
                session.give_up("the line has ended")
                session.over.wait(FAREWELL_S)

    def _fail(self, error: Exception) -> None:
        """End the line: no further attempt would change this."""
        self.failure = error
        self._stopping.set()
        self._tried.set()  # the camera need not be opened any more
        with self.gate.changed:
            self.gate.changed.notify_all()

    def _tell(self, what: Literal["camera", "server"], up: bool, reason: str = "") -> None:
        """Say that something came or went, once."""
        if up:
            self._ever.add(what)
        if self._told.get(what) is not up:
            self._told[what] = up
            self._turned(Turn(self.gate.camera_id, what, up, reason))
