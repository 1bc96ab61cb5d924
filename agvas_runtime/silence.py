"""Messages of a stream that has heartbeats, and an end where there are none: gRPC would wait for ever."""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from threading import TIMEOUT_MAX, Event, Thread
from time import monotonic
from typing import Any

import grpc


class Silent(Exception):
    """The next message did not come in time."""


def heard(call: Any, limit_s: float) -> Generator[Any, None, None]:
    """The messages of a call. It is cancelled where the next one does not come in time.

    The time between taking a message and asking for the next does not count.

    Raises Silent then; grpc.RpcError as the call does.
    """
    limit_s = min(limit_s, TIMEOUT_MAX)
    since, over, silent = monotonic(), Event(), Event()

    def watch() -> None:
        while not over.wait(min(max(since + limit_s - monotonic(), 0), limit_s)):
            if monotonic() - since >= limit_s:
                silent.set()
                call.cancel()
                return

    Thread(target=watch, name="silence", daemon=True).start()
    try:
        for message in call:
            since = inf
            yield message
            since = monotonic()
    except grpc.RpcError:
        if silent.is_set():
            raise Silent(f"no message for {limit_s:g} s") from None
        raise
    finally:
        over.set()
