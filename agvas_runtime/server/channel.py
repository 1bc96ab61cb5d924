"""gRPC settings that server and client share, chosen for frames of megabytes over a local network, and connections."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from agvas_runtime.errors import InputError
from agvas_runtime.server.tls import is_loopback, read_ca, read_pair

MEBIBYTE = 1 << 20

READ_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.experimental.tcp_read_chunk_size", MEBIBYTE),
    ("grpc.experimental.tcp_min_read_chunk_size", MEBIBYTE),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 * MEBIBYTE),
    ("grpc.http2.lookahead_bytes", 8 * MEBIBYTE),
)
PING_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it an unanswered ping is borne for a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""A peer that vanished without a word is noticed after at most 20 s."""
LIMIT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_allowed_incoming_connections", 256),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_concurrent_streams", 128),  # on one connection
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # None: 1 MB can be 1 GB of zeros, which older versions of gRPC unpack before they look at the limit.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)
"""What one who has shown no credentials yet can take of the server."""

RECONNECT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""Pauses between attempts to connect; gRPC's own grow to two minutes, for which a server that is back is not found."""

_ADDRESS = re.compile(r"(?:\[[^\[\]]+\]|[^:/\[\]\s]+):([0-9]{1,5})")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


def server_options(max_message_mb: int) -> list[tuple[str, int]]:
    """Options of a server that takes requests up to this size and never shares its port with another process."""
    return [
        *READ_OPTIONS,
        *PING_OPTIONS,
        *LIMIT_OPTIONS,
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_mb * MEBIBYTE),
        ("grpc.max_send_message_length", -1),
    ]


def client_options(*, pings: bool = True) -> list[tuple[str, int]]:
    """Options of a client: the server decides what is too large, is found again soon after it was away, and is missed.

    Servers are machines of the same network: no proxy is asked for them.

    Args:
        pings: ask a silent server whether it is there. Ours bears it; one with gRPC's own settings hangs up on it.
    """
    return [
        *READ_OPTIONS,
        *(PING_OPTIONS if pings else ()),
        *RECONNECT_OPTIONS,
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]


def open_channel(
    address: str,
    *,
    token: str | None = None,
    ca: Path | str | None = None,
    cert: Path | str | None = None,
    key: Path | str | None = None,
    shared: bool = True,
    pings: bool = True,
) -> grpc.Channel:
    """A connection to a server: with TLS where `ca` is given, else in the clear.

    Args:
        address: `host:port`, or `unix:PATH`; with TLS the host must stand in the server's certificate.
        token: goes along with every call.
        ca: PEM file of who signed the server's certificate.
        cert: PEM file with a certificate of one's own, for servers that ask for one.
        key: PEM file with its private key.
        shared: whether channels of this process that are alike may have one connection together.
        pings: see `client_options`.

    Raises:
        InputError: the address is none, a file cannot be used, the token is none, or it would leave this machine in
            the clear.
    """
    named = _ADDRESS.fullmatch(address)
    if not address.startswith("unix:") and not (named and 0 < int(named[1]) <= 65_535):
        raise InputError(f"address: found {address!r}, expected HOST:PORT")
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError(f"token: found {len(token)} characters that are no token, expected letters, digits and ._~+/-")
    if (cert is None) != (key is None):
        raise InputError(f"{'key' if key is None else 'cert'}: found none, expected both cert and key, or neither")
    options = [*client_options(pings=pings), *(() if shared else (("grpc.use_local_subchannel_pool", 1),))]
    if ca is None:
        return _plain_channel(address, token, options, certified=cert is not None)
    private, chain = None, None
    if cert is not None and key is not None:
        chain, private = read_pair(Path(cert), Path(key))
    credentials = grpc.ssl_channel_credentials(read_ca(Path(ca)), private, chain)
    if token is not None:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
    return grpc.secure_channel(address, credentials, options=options)


def read_token(path: Path) -> str:
    """The token in a file; raises InputError. White space around it does not belong to it."""
    try:
        return path.read_text("ascii").strip()
    except OSError as error:
        raise InputError(f"{path}: found no token: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        raise InputError(f"{path}: found something else, expected a token") from None


def _plain_channel(address: str, token: str | None, options: list[tuple[str, int]], certified: bool) -> grpc.Channel:
    if certified:
        raise InputError("ca: found none, expected the server's authority: a certificate is shown in TLS only")
    if token is None:
        return grpc.insecure_channel(address, options=options)
    if not address.startswith("unix:") and not is_loopback(address.rpartition(":")[0]):
        raise InputError(
            f"token: found no ca, expected one: without TLS the way to {address} shows the token to others"
        )
    return grpc.intercept_channel(grpc.insecure_channel(address, options=options), _Bearer(token))


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Bearer(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends a token without TLS, which gRPC's own credentials refuse."""

    def __init__(self, token: str) -> None:
        self._entry = ("authorization", f"Bearer {token}")

    def _intercept(self, go_on: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), self._entry]
        rest = details.credentials, getattr(details, "wait_for_ready", None), getattr(details, "compression", None)
        return go_on(_Details(details.method, details.timeout, metadata, *rest), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _intercept
