"""What a server and its engine process say to each other through their pipe.

It is pickled: both ends are ours, of one version, and nobody else has the pipe. No bytes of a client's are unpickled.
Pixels, masks and maps do not go this way but through the arena.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

from agvas_runtime import errors
from agvas_runtime.console import one_line
from agvas_runtime.segmenter import GroupMap, Text
from agvas_runtime.server.engine.arena import Token
from agvas_runtime.server.engine.task import EngineFacts, EngineSpec, FrameResult, Task

Event = Text | GroupMap | FrameResult
"""Of a frame whose answer is written step by step; the result is the last one."""
START = 0
"""The job of an engine process before all others: to become ready."""


class Link(Connection):
    """An end of the pipe, as `Connection` is one, but with the plain pickler, which is the faster one."""

    def send(self, message: Any) -> None:
        """Send a message. Raises OSError."""
        self.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def recv(self) -> Any:
        """Wait for a message. Raises EOFError, OSError."""
        return pickle.loads(self.recv_bytes())


@lru_cache(256)
def packed(tasks: tuple[Task, ...]) -> bytes:
    """Tasks of frames, as they travel. Those of a camera are the same ones again and again."""
    return pickle.dumps(tasks, pickle.HIGHEST_PROTOCOL)


@lru_cache(256)
def unpacked(tasks: bytes) -> tuple[Task, ...]:
    """The way back."""
    found: tuple[Task, ...] = pickle.loads(tasks)
    return found


@dataclass(frozen=True)
class Hello:
    """The server's first message."""

    spec: EngineSpec
    arena_bytes: int


@dataclass(frozen=True)
class Work:
    """Segment these frames together, or write the only one's answer step by step."""

    job: int
    tokens: tuple[Token, ...]
    tasks: bytes
    """`packed`."""
    streamed: bool


@dataclass(frozen=True)
class Next:
    """Make a stream's next step."""

    job: int


@dataclass(frozen=True)
class Cancel:
    """Nobody wants the rest of a job; it is still answered, so that its blocks are known to be free."""

    job: int


@dataclass(frozen=True)
class Stop:
    """Finish what is in the engine, and end."""


@dataclass(frozen=True)
class Ready:
    """The engine process's first message, if it becomes ready."""

    facts: EngineFacts


@dataclass(frozen=True)
class Answer:
    """A job's results, or a stream's next event."""

    job: int
    value: list[FrameResult] | Event
    last: bool
    """Whether nothing more comes of this job."""


@dataclass(frozen=True)
class Failed:
    """A job that ended with an error."""

    job: int
    kind: str
    """Name of one of `agvas_runtime.errors`."""
    text: str

    @classmethod
    def by(cls, job: int, error: Exception) -> Failed:
        """By this error; one that is none of ours is an EngineError that names it."""
        for kind in type(error).__mro__:
            if kind.__module__ == errors.__name__:
                return cls(job, kind.__name__, str(error))
        return cls(job, errors.EngineError.__name__, one_line(f"{type(error).__name__}: {error}"))

    def error(self) -> Exception:
        """The error, to be raised."""
        error: Exception = getattr(errors, self.kind)(self.text)
        return error
