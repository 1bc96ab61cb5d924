"""The port of gRPC: opened, or the system's reason why not, which gRPC itself does not tell."""

from __future__ import annotations

import errno
import socket
from typing import Any

import grpc

from agvas_runtime.errors import EngineError
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.tls import server_credentials

NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Of an address that this machine does not have, as ::1 where IPv6 is off."""

EVERYWHERE = ("0.0.0.0", "::")
"""gRPC takes either for both."""


def open_port(server: grpc.Server, config: ServerConfig) -> int:
    """Bind the server and return its port; raises EngineError with the system's reason, InputError."""
    host, port = config.host, config.port
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    credentials = None
    if config.tls_cert is not None and config.tls_key is not None:
        credentials = server_credentials(config.tls_cert, config.tls_key, config.client_ca)
    reason = why_not(host, port)
    if reason is None:
        try:
            if credentials is None:
                return int(server.add_insecure_port(address))
            return int(server.add_secure_port(address, credentials))
        except RuntimeError:
            reason = why_not(host, port) or "it cannot be opened"
    raise EngineError(f"port {port} on {host}: {reason}")


def why_not(host: str, port: int) -> str | None:
    """The system's reason why a server cannot listen there, None if it can.

    A name may stand for several addresses, as localhost does: every one that this machine has must be free, or clients
    that take another one would reach another program.
    """
    absent, free = None, False
    hosts = EVERYWHERE if host in EVERYWHERE else (host,)
    try:
        found = [each for name in hosts for each in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
        for family, kind, protocol, _, address in found:
            try:
                _listen(socket.socket(family, kind, protocol), address)
                free = True
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
                absent = error
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None if free or absent is None else (absent.strerror or str(absent)).lower()


def _listen(probe: socket.socket, address: tuple[Any, ...]) -> None:
    """Open an address for a moment."""
    with probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if probe.family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind(address)
        probe.listen(1)
