"""Connections of a load: every camera has one of its own, as cameras have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server.channel import open_channel


@dataclass(frozen=True)
class Connection:
    """How a server is reached; arguments as `open_channel` has them. It may be another maker's: it gets no pings."""

    address: str
    token: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the address, by name."""
        return {"token": self.token, "ca": self.ca, "cert": self.cert, "key": self.key}

    def shared(self) -> grpc.Channel:
        """A channel for questions. Raises InputError as `open_channel` does; so ask this first."""
        return open_channel(self.address, **self.options, pings=False)

    def own(self) -> grpc.Channel:
        """A channel with a connection of its own."""
        return open_channel(self.address, **self.options, shared=False, pings=False)


def stamped(data: bytes) -> tuple[float, bytes]:
    """A reply's bytes and when they came, taken where gRPC hands them over, ahead of every change of threads."""
    return perf_counter(), data


def reason_of(error: Any) -> str:
    """A failed call's own text; gRPC's code where it has none."""
    return str(error.details() or error.code().name.lower().replace("_", " "))


def failure(address: str, error: Any) -> Exception:
    """What a failed question to a server means: InputError for what it does not know, else EngineError."""
    wrong = error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    return (InputError if wrong else EngineError)(f"{address}: {reason_of(error)}")
