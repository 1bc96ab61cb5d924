"""gRPC's health service, for services that are known beforehand.

The one that comes with gRPC keeps a place for every name that anybody ever watched, and one watcher who does not read
holds up all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Event

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc as pb_grpc

from agvas_runtime.errors import NotFound
from agvas_runtime.server.statuses import TooMuch

MOST_WATCHERS = 32
"""Each has a thread; below what the guard gives to this service, so that checks are answered beside them."""
SHOWN_CHARACTERS = 60
"""Of an unknown service's name."""


class HealthService(pb_grpc.HealthServicer):  # type: ignore[misc]
    """Answers `Check`, `List` and `Watch`: not serving to begin with.

    Args:
        services: their names; the whole server, "", is always there.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._serving = self._closed = False
        self._names = ("", *services)
        self._changed = Condition()
        self._watchers = 0

    def set(self, serving: bool) -> None:
        """Whether the server and its services serve now."""
        with self._changed:
            self._serving = serving
            self._changed.notify_all()

    def close(self) -> None:
        """Not serving any more: all who watch are told so, and no more. A server ends only after them."""
        with self._changed:
            self._closed = True
        self.set(False)

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        """The status now."""
        if request.service not in self._names:
            found = ascii(request.service[:SHOWN_CHARACTERS])
            raise NotFound(f"service: found {found}, expected one of {', '.join(map(repr, self._names))}")
        return self._response(request)

    def List(self, request: pb.HealthListRequest, context: grpc.ServicerContext) -> pb.HealthListResponse:
        """The status of everything now."""
        statuses = {name: self._response(pb.HealthCheckRequest(service=name)) for name in self._names}
        return pb.HealthListResponse(statuses=statuses)

    def Watch(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.HealthCheckResponse]:
        """The status now, and whenever it changes until `close`; of an unknown service that it is unknown."""
        gone = Event()

        def leave() -> None:
            gone.set()
            with self._changed:
                self._changed.notify_all()

        with self._place():
            if not context.add_callback(leave):
                return
            told = None
            while not gone.is_set():
                with self._changed:
                    while not gone.is_set() and self._response(request) == told:
                        if self._closed:
                            return
                        self._changed.wait()
                    told = self._response(request)
                if not gone.is_set():
                    yield told

    def _response(self, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        status = "SERVING" if self._serving and not self._closed else "NOT_SERVING"
        return pb.HealthCheckResponse(status=status if request.service in self._names else "SERVICE_UNKNOWN")

    @contextmanager
    def _place(self) -> Iterator[None]:
        with self._changed:
            if self._watchers == MOST_WATCHERS:
                raise TooMuch(f"watchers: found {MOST_WATCHERS} already, expected fewer; check instead")
            self._watchers += 1
        try:
            yield
        finally:
            with self._changed:
                self._watchers -= 1
