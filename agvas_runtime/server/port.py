"""The port of gRPC: opened, or the system's reason why not, which gRPC itself does not tell."""

from __future__ import annotations

import socket

import grpc

from agvas_runtime.errors import EngineError
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.tls import server_credentials


def open_port(server: grpc.Server, config: ServerConfig) -> int:
    """Bind the server and return its port; raises EngineError with the system's reason, InputError."""
    host, port = config.host, config.port
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    credentials = None
    if config.tls_cert is not None and config.tls_key is not None:
        credentials = server_credentials(config.tls_cert, config.tls_key, config.client_ca)
    reason = _why_not(host, port)
    if reason is None:
        try:
            if credentials is None:
                return int(server.add_insecure_port(address))
            return int(server.add_secure_port(address, credentials))
        except RuntimeError:
            reason = _why_not(host, port) or "it cannot be opened"
    raise EngineError(f"port {port} on {host}: {reason}")


def _why_not(host: str, port: int) -> str | None:
    """The system's reason why this address cannot be bound, None if it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None
