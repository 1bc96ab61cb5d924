"""Calls until their callers have taken everything: how many there are, and which wait too long for their callers.

gRPC holds a call, with its reply, for as long as the caller likes; a pong to a ping is all that it asks for.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from time import monotonic

import grpc

TAKE_S = 30.0
"""How long a caller may leave a reply untaken."""
GIVE_S = 60.0
"""How long a caller may take to send a message that the server waits for: 64 MiB at 10 Mbit/s."""
MOST_SILENT = 32
"""Calls whose messages are waited for longer than SILENT_S, of those without threads of their own."""
SILENT_S = 0.5
"""Calls that come all at once have their messages by then."""


class OpenCall:
    """A call that has begun."""

    def __init__(self, context: grpc.ServicerContext, give_s: float, take_s: float) -> None:
        self.until = inf
        """When the caller must have moved."""
        self.peer = context.peer()
        """Of which connection it is."""
        self._context, self._give_s, self._take_s = context, give_s, take_s

    @contextmanager
    def awaiting_message(self, silent: Silent) -> Iterator[None]:
        """While the block lasts, the next message is waited for, unless the call has to give way to younger ones."""
        self.until = monotonic() + self._give_s
        silent.add(self)
        try:
            yield
        finally:
            silent.discard(self)
            self.until = inf

    @contextmanager
    def awaiting_taker(self) -> Iterator[None]:
        """While the block lasts, a reply is on its way."""
        self.replied()
        try:
            yield
        finally:
            self.until = inf

    def replied(self) -> None:
        """The last reply is on its way, or the status."""
        self.until = monotonic() + self._take_s

    def cancel(self) -> None:
        """End it."""
        self._context.cancel()


class Silent:
    """Calls of one pool of threads whose messages are waited for: each holds a thread.

    Args:
        most: how many there may be for longer than SILENT_S; fewer than the pool's threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: dict[OpenCall, float] = {}
        self._lock = threading.Lock()

    def add(self, call: OpenCall) -> None:
        """One more."""
        with self._lock:
            self._calls[call] = monotonic()

    def discard(self, call: OpenCall) -> None:
        """Its message has come, or it is over."""
        with self._lock:
            self._calls.pop(call, None)

    def surplus(self) -> list[OpenCall]:
        """Take out those that are too many: of the connection with the most of them the one that has waited longest."""
        until = monotonic() - SILENT_S
        with self._lock:
            old = [call for call, since in self._calls.items() if since < until]
            ended = []
            while len(old) > self._most:
                [(peer, _)] = Counter(call.peer for call in old).most_common(1)
                ended.append(next(call for call in old if call.peer == peer))
                old.remove(ended[-1])
                del self._calls[ended[-1]]
        return ended


class OpenCalls:
    """All of them. A thread ends those whose callers are waited for too long.

    Args:
        silent: in each of them, calls that are too many are ended as well.
        give_s: how long a message may take.
        take_s: how long a reply may lie untaken.
    """

    def __init__(self, silent: Sequence[Silent], give_s: float = GIVE_S, take_s: float = TAKE_S) -> None:
        self._silent = silent
        self._give_s, self._take_s = give_s, take_s
        self._calls: set[OpenCall] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="patience", daemon=True).start()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, context: grpc.ServicerContext) -> OpenCall:
        """A call that begins. It is forgotten when gRPC has done with it."""
        call = OpenCall(context, self._give_s, self._take_s)
        with self._lock:
            self._calls.add(call)
        if not context.add_callback(lambda: self._forget(call)):
            self._forget(call)
        return call

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _forget(self, call: OpenCall) -> None:
        with self._lock:
            self._calls.discard(call)

    def _watch(self) -> None:
        while not self._closed.wait(min(self._give_s, self._take_s, 2 * SILENT_S) / 2):
            now = monotonic()
            with self._lock:
                late = [call for call in self._calls if call.until < now]
            late += [call for calls in self._silent for call in calls.surplus()]
            for call in late:
                call.until = inf  # once
                call.cancel()
