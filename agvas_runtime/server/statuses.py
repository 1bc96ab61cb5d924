"""The status of a call for whatever went wrong in it, as the protocol says it at its service."""

from __future__ import annotations

from concurrent.futures import CancelledError

import grpc

from agvas_runtime.console import one_line
from agvas_runtime.errors import Cancelled, EngineError, EngineLost, InputError, NotFound, NotNow
from agvas_runtime.server.callers import Unauthenticated
from agvas_runtime.server.engine.arena import ArenaFull
from agvas_runtime.server.lanes import Fate, NoResult

Code = grpc.StatusCode

LONGEST = 1000
"""Bytes of a status's text: three times as many on the wire if it must be escaped, and a client takes 8 KiB."""


class TooMuch(Exception):
    """The caller asks for more than it can have now."""


class Denied(Exception):
    """The caller is known, and may not do this."""


class NoSuchMethod(Exception):
    """There is no such method."""


_STATUS_OF_FATE = {
    Fate.DROPPED: Code.RESOURCE_EXHAUSTED,
    Fate.EXPIRED: Code.DEADLINE_EXCEEDED,
    Fate.ENGINE_FAILED: Code.UNAVAILABLE,
    Fate.REFUSED: Code.UNAVAILABLE,
    Fate.CANCELLED: Code.CANCELLED,
}
_STATUS_OF_TYPE: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (Unauthenticated, Code.UNAUTHENTICATED),
    (Denied, Code.PERMISSION_DENIED),
    (NoSuchMethod, Code.UNIMPLEMENTED),
    (NotImplementedError, Code.UNIMPLEMENTED),
    (TooMuch, Code.RESOURCE_EXHAUSTED),
    (ArenaFull, Code.RESOURCE_EXHAUSTED),
    (NotFound, Code.NOT_FOUND),
    (NotNow, Code.FAILED_PRECONDITION),
    (InputError, Code.INVALID_ARGUMENT),
    (EngineLost, Code.UNAVAILABLE),
    (EngineError, Code.INTERNAL),
)
"""The first one that fits counts."""


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """The status of whatever went wrong, and its text, one line. Of what nobody foresaw, only the type is told."""
    if isinstance(error, Cancelled | CancelledError | grpc.RpcError):
        return Code.CANCELLED, "the caller went away before there was an answer"
    if isinstance(error, NoResult):
        return _STATUS_OF_FATE[error.fate], _cut(str(error))
    for kind, code in _STATUS_OF_TYPE:
        if isinstance(error, kind):
            return code, _cut(str(error))
    return Code.INTERNAL, type(error).__name__


def _cut(text: str) -> str:
    return one_line(text).encode()[:LONGEST].decode(errors="ignore")
