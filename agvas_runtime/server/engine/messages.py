"""What a server and its engine process say to each other through their pipe.

Both ends are ours, of one version, and nobody else has the pipe. What every frame needs is packed by hand, which costs
a tenth of pickling when neither is in a cache; the rest is pickled. No bytes of a client's are unpickled. Pixels, masks
and maps do not go this way but through the arena.
"""

from __future__ import annotations

import pickle
import select
import socket
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agvas_runtime import errors
from agvas_runtime.console import one_line
from agvas_runtime.segmenter import GroupMap, Text
from agvas_runtime.server.engine.arena import Token
from agvas_runtime.server.engine.task import EngineFacts, EngineSpec, FrameResult, Task
from agvas_runtime.verdict import Verdict

Event = Text | GroupMap | FrameResult
"""Of a frame whose answer is written step by step; the result is the last one."""
START = 0
"""The job of an engine process before all others: to become ready."""
_SIZE = struct.Struct("=Q")
"""Bytes of the message that follows."""
_WORK, _RESULTS = 1, 2
"""First byte of a message that is not pickled; that of a pickle is 128."""
_HEAD = struct.Struct("=BQ?I")
"""What it is; the job; of work, whether it is streamed; how many frames."""
_TOKEN = struct.Struct("=QIIB")
_RESULT = struct.Struct("=BddI")
"""The verdict's place in `_VERDICTS`; milliseconds; threshold; bytes of the reply."""
_VERDICTS = tuple(Verdict)


class Link:
    """An end of the pipe, by the number of its open file, which is the link's from now on."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._events = select.poll()
        self._events.register(fd, select.POLLIN)

    def send(self, message: Any) -> None:
        """Send a message. Raises OSError."""
        if isinstance(message, Work):
            content = _work_bytes(message)
        elif isinstance(message, Answer) and isinstance(message.value, list) and not _have_maps(message.value):
            content = _results_bytes(message.job, message.value)
        else:
            content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._socket.sendall(_SIZE.pack(len(content)) + content)

    def recv(self) -> Any:
        """Wait for a message. Raises EOFError, OSError."""
        content = self._exactly(*_SIZE.unpack(self._exactly(_SIZE.size)))
        if content[0] == _WORK:
            return _work(content)
        return _results(content) if content[0] == _RESULTS else pickle.loads(content)

    def poll(self, timeout_s: float = 0.0) -> bool:
        """Wait so long for something to receive, which may be the end; whether there is something. For one thread."""
        return bool(self._events.poll(timeout_s * 1000))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        content = self._socket.recv(count)
        while len(content) < count:
            if not (piece := self._socket.recv(count - len(content))):
                raise EOFError
            content += piece
        return content


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


def _work_bytes(work: Work) -> bytes:
    tokens = [_TOKEN.pack(*token) for token in work.tokens]
    return b"".join((_HEAD.pack(_WORK, work.job, work.streamed, len(tokens)), *tokens, work.tasks))


def _work(content: bytes) -> Work:
    _, job, streamed, count = _HEAD.unpack_from(content)
    end = _HEAD.size + count * _TOKEN.size
    tokens = (Token(*numbers) for numbers in _TOKEN.iter_unpack(content[_HEAD.size : end]))
    return Work(job, tuple(tokens), content[end:], streamed)


def _have_maps(results: list[FrameResult]) -> bool:
    return any(result.group_maps for result in results)


def _results_bytes(job: int, results: list[FrameResult]) -> bytes:
    """The answer to a job, no frame of which has maps of groups."""
    parts = [_HEAD.pack(_RESULTS, job, False, len(results))]
    for result in results:
        verdict = _VERDICTS.index(result.verdict)
        parts += (_RESULT.pack(verdict, result.total_ms, result.threshold, len(result.reply)), result.reply)
    return b"".join(parts)


def _results(content: bytes) -> Answer:
    _, job, _, count = _HEAD.unpack_from(content)
    at, results = _HEAD.size, []
    for _ in range(count):
        verdict, total_ms, threshold, size = _RESULT.unpack_from(content, at)
        at += _RESULT.size + size
        results.append(FrameResult(content[at - size : at], _VERDICTS[verdict], total_ms, threshold))
    return Answer(job, results, last=True)
