"""Whose turn it is: one thread runs the engine, callers hand it jobs. It knows no requests and no replies."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import inf
from threading import Event, Thread
from time import perf_counter
from typing import Any, TypeVar

import grpc

from agvas_runtime.errors import Cancelled

Value = TypeVar("Value")


class Turns:
    """A caller's jobs on the engine's thread, one at a time, in line with everybody else's; none for one who is gone.

    Args:
        engine: has one thread.
        context: the caller's.
    """

    def __init__(self, engine: ThreadPoolExecutor, context: grpc.ServicerContext) -> None:
        self.queue_ms = 0.0
        """Spent waiting for turns so far."""
        self._engine = engine
        self._gone = Event()
        self._job: Future[Any] | None = None
        if not context.add_callback(self._leave):
            self._leave()

    def gone(self) -> bool:
        """Whether the caller went away, or the server stopped."""
        return self._gone.is_set()

    def take(self, job: Callable[[], Value]) -> Value:
        """Run a job when its turn comes.

        Raises what the job raises; Cancelled or CancelledError, without running it, for a caller who is gone.
        """
        queued = perf_counter()

        def run() -> Value:
            self.queue_ms += (perf_counter() - queued) * 1000
            if self.gone():
                raise Cancelled("the caller went away")
            return job()

        try:
            self._job = future = self._engine.submit(run)
        except RuntimeError:  # the engine's thread has ended
            raise Cancelled("the server stops") from None
        if self.gone():
            future.cancel()
        return future.result()

    def steps(self, values: Generator[Value, None, None]) -> Generator[Value, None, None]:
        """A generator's values, each made in a turn of its own; it is closed on the engine's thread, too."""
        try:
            while (value := self.take(partial(next, values, None))) is not None:
                yield value
        finally:
            try:
                self._engine.submit(values.close)
            except RuntimeError:  # nobody else runs it any more
                values.close()

    def _leave(self) -> None:
        self._gone.set()
        if self._job is not None:
            self._job.cancel()


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
