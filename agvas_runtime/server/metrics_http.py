"""The HTTP port for those who watch a server: /metrics, /healthz, /readyz. GET only, no TLS, no login.

Nobody who reads from it, however slowly, holds up frames: connections are few, and each has few seconds in all.
Nor does one address keep another one out.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock, Thread
from time import monotonic
from typing import Any

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from agvas_runtime import __version__
from agvas_runtime.console import one_line
from agvas_runtime.errors import EngineError

CONNECTION_S = 5.0
"""For the whole of a request, and again for the whole of its reply."""
MOST_CONNECTIONS, MOST_OF_ADDRESS = 16, 4
LOOK_S = 0.1
"""How often it is looked whether the end has come."""
MOST_HEAD_BYTES = 8192
"""Of a request's first line and headers."""
TEXT = "text/plain; charset=utf-8"

log = logging.getLogger("agvas.metrics")


class MetricsServer:
    """Listens from its start until `close`.

    Args:
        host: address to listen on.
        port: TCP port; 0 takes any free one.
        render: the body of /metrics.
        why_not_ready: why no frames are taken, empty when they are.

    Raises:
        EngineError: the port is taken or cannot be opened.
    """

    def __init__(self, host: str, port: int, render: Callable[[], bytes], why_not_ready: Callable[[], str]) -> None:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            self._server = _Server(family, address, render, why_not_ready)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise EngineError(f"metrics port {port} on {host}: {reason}") from None
        self.port: int = self._server.socket.getsockname()[1]
        self._thread = Thread(target=self._server.serve_forever, args=(LOOK_S,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; whoever is being answered is forgotten."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, TCPServer):
    """A thread a connection, as long as there is room and its address has not too many; one more is closed at once."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(
        self, family: int, address: Any, render: Callable[[], bytes], why_not_ready: Callable[[], str]
    ) -> None:
        self.address_family = family
        self.render, self.why_not_ready = render, why_not_ready
        self._open: Counter[str] = Counter()
        """Connections by their addresses."""
        self._lock = Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._take(client_address[0]):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._leave(client_address[0])
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(client_address[0])

    def _take(self, address: str) -> bool:
        """Take a place for a connection from there; whether there was one."""
        with self._lock:
            if self._open.total() >= MOST_CONNECTIONS or self._open[address] >= MOST_OF_ADDRESS:
                return False
            self._open[address] += 1
            return True

    def _leave(self, address: str) -> None:
        with self._lock:
            self._open[address] -= 1
            self._open += Counter()  # without those that have none

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that goes away or is too slow is no event."""
        log.debug("a request was not answered", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One request and its reply, then the connection is closed."""

    server: _Server
    server_version = f"agvas/{__version__}"

    def setup(self) -> None:
        super().setup()
        head = _read_head(self.connection)
        self.rfile.close()
        self.rfile = BytesIO(head)
        self.connection.settimeout(CONNECTION_S)

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            self._reply(200, self.server.render(), CONTENT_TYPE_LATEST)
        elif path == "/healthz":
            self._reply(200, b"alive\n")
        elif path == "/readyz":
            reason = one_line(self.server.why_not_ready())
            self._reply(503 if reason else 200, f"{reason or 'ready'}\n".encode())
        else:
            self._reply(404, b"there are /metrics, /healthz and /readyz\n")

    def _only_get(self) -> None:
        self._reply(405, b"GET only\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _only_get

    def _reply(self, code: int, body: bytes, kind: str = TEXT) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if code == 405:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("%s", one_line(format % args))


def _read_head(connection: socket.socket) -> bytes:
    """A request up to the blank line behind its headers. Raises OSError if it takes too long or is too long."""
    until, head = monotonic() + CONNECTION_S, b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left = until - monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        connection.settimeout(left)
        piece = connection.recv(MOST_HEAD_BYTES + 1 - len(head))
        head += piece
        if not piece or len(head) > MOST_HEAD_BYTES:
            raise ConnectionError("no request, or one that is too long")
    return head
