"""Callers who do not take what is sent to them. It knows no requests and no replies."""

from collections.abc import Iterator
from math import inf
from threading import Event, Thread
from time import perf_counter
from typing import TypeVar

import grpc

Value = TypeVar("Value")


def while_taken(events: Iterator[Value], context: grpc.ServicerContext, patience_s: float) -> Iterator[Value]:
    """Pass on what is sent to a caller; one who leaves an event untaken for so long, or up to twice, is cancelled."""
    ended, given = Event(), inf

    def watch() -> None:
        while not ended.wait(patience_s):
            if perf_counter() - given >= patience_s:
                context.cancel()

    Thread(target=watch, name="patience", daemon=True).start()
    try:
        for event in events:
            given = perf_counter()
            yield event
            given = inf
    finally:
        ended.set()
