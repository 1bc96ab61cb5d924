"""A camera's connection to the server while it lasts, and the parts that it owes an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from threading import Condition, Event
from time import monotonic

from agvas_runtime.camera.gate import Gate, Part
from agvas_runtime.client import Client
from agvas_runtime.errors import InputError
from agvas_runtime.local_client import LocalClient
from agvas_runtime.wire import FrameIdentity, ImageLike

AnyClient = Client | LocalClient

CONNECT_S = 5.0
"""How long a connection may take; and how long a camera waits for the server before its first frame."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Between two attempts to reach a camera or a server: twice as long each time."""


class Session:
    """One connection, and its parts.

    Args:
        client: its own; closed with it.
        gate: whose parts they are.
        silence_s: how long the server may say nothing.
    """

    def __init__(self, client: AnyClient, gate: Gate, silence_s: float) -> None:
        self.up = False
        """The server has said that it is there."""
        self.heard = monotonic()
        self.why_closed = ""
        self.over = Event()
        self._client, self._gate, self._silence_s = client, gate, silence_s
        self._outbox: deque[Part] = deque()
        self._sent: dict[int, Part] = {}
        self._changed, self._closed, self._finished = Condition(), False, False

    def offer(self, part: Part, latest: bool) -> list[Part]:
        """Send this part, too, or instead of what waits; returns the parts that are not sent: itself after the end."""
        with self._changed:
            if self._closed:
                return [part]
            old = list(self._outbox) if latest else []
            if latest:
                self._outbox.clear()
            self._outbox.append(part)
            self._changed.notify_all()
        return old

    def frames(self) -> Iterator[tuple[ImageLike, FrameIdentity]]:
        """What is to be sent, as it comes, until the connection is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._closed or self._finished)
                if not self._outbox:
                    return
                part = self._outbox.popleft()
                self._sent = {number: each for number, each in self._sent.items() if self._gate.is_open(each)}
                self._sent[part.sequence] = part
            # It is sent now; for pictures the gate keeps so many as it allows.
            image, part.captured = part.captured.image, replace(part.captured, image=None)
            if image is not None and self._gate.is_open(part):
                yield image, self._gate.identity(part)

    def unsent(self, identity: FrameIdentity | None, error: InputError) -> None:
        """The client cannot send a frame: its part is decided at once."""
        number = None if identity is None else identity.sequence
        with self._changed:
            part = None if number is None else self._sent.pop(number, None)
        if part is not None:
            self._gate.no_answer(part, "invalid", str(error))

    def silent_at(self) -> float | None:
        """When the server counts as silent unless it says something; None once it was given up."""
        if self.why_closed or self._closed:
            return None
        return self.heard + (self._silence_s if self.up else CONNECT_S)

    def finish(self) -> None:
        """Send nothing more; the server answers what it has and ends the stream."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def give_up(self, reason: str) -> None:
        """End the connection from another thread."""
        self.why_closed = self.why_closed or reason
        with suppress(Exception):
            self._client.close()

    def close(self) -> list[Part]:
        """The connection has ended; returns the parts that it had."""
        with self._changed:
            self.up, self._closed = False, True
            parts = [*self._sent.values(), *self._outbox]
            self._outbox.clear()
            self._sent.clear()
            self._changed.notify_all()
        with suppress(Exception):
            self._client.close()
        self.over.set()
        return parts


class Pause:
    """Waits between two attempts, longer each time."""

    def __init__(self, ended: Event) -> None:
        self._ended, self._pause_s = ended, FIRST_PAUSE_S

    def __call__(self) -> None:
        """Wait, unless it is time to end."""
        self._ended.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def reset(self) -> None:
        """An attempt was a success."""
        self._pause_s = FIRST_PAUSE_S
