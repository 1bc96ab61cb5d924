"""The server's process: opens the port and the bundle, warms up, reports readiness, stops on a signal."""

import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from PIL import Image

from agvas_runtime.engines.choice import Stopped, open_bundle
from agvas_runtime.engines.ort import share_threads
from agvas_runtime.errors import EngineError
from agvas_runtime.modes import Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2, inspection_pb2_grpc
from agvas_runtime.server.channel import DEFAULT_MESSAGE_MB, server_options
from agvas_runtime.server.replies import model_reply
from agvas_runtime.server.service import MAX_WAITING, InspectionService

SERVICE_NAME: str = inspection_pb2.DESCRIPTOR.services_by_name["Inspection"].full_name
SPARE_WORKERS = 4
"""Threads beyond those that wait for the engine, so that health checks are answered under load."""
GRACE_S = 3.0
"""How long a stopping server lets running requests finish."""


@dataclass(frozen=True)
class ServerConfig:
    """What the user chooses."""

    bundle: Path | None = None
    """The embedded default where None."""
    host: str = "127.0.0.1"
    port: int = 50051
    """0 takes any free port."""
    threads: int | None = None
    """Threads of the engine; all cores where None."""
    max_message_mb: int = DEFAULT_MESSAGE_MB
    engine: str = "ort"
    """ort, ort-cuda, tensorrt or auto, see `engines.choice`; native engines that are missing are built first."""
    warm: tuple[Request, ...] = ()
    """Requests whose first frame is to be as fast as the next ones; the default one always is."""


class InspectionServer:
    """A running server. `start` returns once it answers; `stop` lets running requests finish.

    Args:
        config: what to serve, and where.
        stopped: set where native engines that are being built are not wanted any more.

    Raises:
        EngineError: the port is taken or cannot be opened, or an engine fails.
        BundleError: the bundle is refused.
        InputError: a request to warm up for is not usable.
        Stopped: `stopped` was set during a build.
    """

    def __init__(self, config: ServerConfig, stopped: threading.Event) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=MAX_WAITING + SPARE_WORKERS, thread_name_prefix="grpc"),
            options=server_options(config.max_message_mb),
        )
        self.host, self.port = config.host, _open_port(self._server, config.host, config.port)
        self._health = health.HealthServicer()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        share_threads(config.threads)
        self._segmenter = open_bundle(config.engine, config.bundle, config.threads, build_unless=stopped)
        try:
            self._segmenter.warm([*config.warm, Request()])
        except BaseException:
            with suppress(EngineError):
                self._segmenter.close()
            raise
        Image.preinit()  # the first encoded frame would wait for PIL's decoders otherwise
        model = model_reply(self._segmenter.bundle)
        self.model = model.model
        self._service = InspectionService(self._segmenter, model)
        inspection_pb2_grpc.add_InspectionServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Report NOT_SERVING, refuse new requests, let running ones finish within a few seconds, free the engines."""
        self._health.enter_graceful_shutdown()
        self._server.stop(GRACE_S).wait()
        self._service.close()
        self._segmenter.close()

    def _set_health(self, status: int) -> None:
        for service in ("", SERVICE_NAME):
            self._health.set(service, status)


def serve(config: ServerConfig, ready: Callable[[InspectionServer], None]) -> None:
    """Serve until SIGINT or SIGTERM, from the main thread.

    Args:
        config: what to serve, and where.
        ready: called once the server answers.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        server = InspectionServer(config, stopped)
    except Stopped:
        return
    try:
        if not stopped.is_set():
            server.start()
            ready(server)
            stopped.wait()
    finally:
        server.stop()


def _open_port(server: grpc.Server, host: str, port: int) -> int:
    """Bind the server and return its port; raises EngineError with the system's reason."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    reason = _why_not(host, port)
    if reason is None:
        try:
            return int(server.add_insecure_port(address))
        except RuntimeError:
            reason = _why_not(host, port) or "it cannot be opened"
    raise EngineError(f"port {port} on {host}: {reason}")


def _why_not(host: str, port: int) -> str | None:
    """The system's reason why this address cannot be bound, None if it can. gRPC itself does not tell."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None
