"""Who is at the other end of a call: what it shows of itself, who that is, what is logged of those turned away.

What callers send is a secret or a trap: nothing of it is logged but names that were checked.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic
from urllib.parse import unquote

import grpc

from agvas_runtime.server.access import ALL_RIGHTS, Principal, Principals
from agvas_runtime.server.tls import is_loopback

Metadata = Sequence[tuple[str, str | bytes]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Unauthenticated(Exception):
    """The server does not know who calls."""


@dataclass(frozen=True)
class Caller:
    """Who calls, for logs and metrics."""

    name: str
    """Empty where everybody may call, and for those who are turned away."""
    request_id: str
    peer: str
    """As gRPC writes it: "ipv4:192.168.0.7:50312"."""

    @property
    def host(self) -> str:
        """The peer's address without its port."""
        kind, _, rest = self.peer.partition(":")
        return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else kind


@dataclass(frozen=True)
class Presented:
    """What a caller shows of itself."""

    token: str | None = field(default=None, repr=False)
    certificates: frozenset[str] = frozenset()
    """Common name and DNS names of its client certificate, which TLS has verified."""
    certified: bool = False
    """Whether there is such a certificate."""

    def identify(self, principals: Principals) -> Principal:
        """Who that is, for a server with an access file. Raises Unauthenticated."""
        found = principals.find(self.token, self.certificates)
        if found is None:
            what = "no token" if self.token is None else "an unknown token"
            if self.certified:
                what += " and a client certificate" + (" of an unknown name" if self.token is None else "")
            raise Unauthenticated(
                f"authorization: found {what}, expected 'Bearer TOKEN' with a token that the server knows"
            )
        return found

    def anonymous(self, host: str) -> Principal:
        """Who that is, for a server without an access file.

        From this machine everybody may do everything. Whoever else gets here may inspect: with a client certificate, or
        because the server was told to be insecure.
        """
        if self.certified:
            return Principal(min(self.certificates, default=""), frozenset(("inspect",)))
        here = host == "unix" or is_loopback(host)
        return Principal("", ALL_RIGHTS if here else frozenset(("inspect",)))


def presented(context: grpc.ServicerContext, metadata: Metadata) -> Presented:
    """What the caller of this call shows. Raises Unauthenticated where that is no token at all."""
    shown = context.auth_context()
    names = [*shown.get("x509_common_name", ()), *shown.get("peer_dns", ())]
    certificates = frozenset(name.decode(errors="replace") for name in names if name)
    headers = [value for key, value in metadata if key == "authorization"]
    token = None
    if headers:
        scheme, _, token = str(headers[0]).partition(" ")
        if len(headers) > 1 or scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("authorization: found something else, expected 'Bearer TOKEN' once")
        token = token.strip()
    return Presented(token, certificates, bool(shown.get("x509_pem_cert")))


def request_id(metadata: Metadata) -> str:
    """The caller's own id of the call where that is fit for a log, else a new one."""
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8)


class Denials:
    """Logs who is turned away, at most once a second for an address, with the number of those in between.

    Args:
        log: gets the lines.
        clock: seconds.
    """

    MOST = 1024
    """Addresses that are remembered."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = monotonic) -> None:
        self._log, self._clock, self._lock = log, clock, Lock()
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def tell(self, caller: Caller, method: str, code: str) -> None:
        """Log a denial, or count it."""
        now = self._clock()
        with self._lock:
            last, count = self._seen.pop(caller.host, (-1.0, 0))
            told = last < 0 or now - last >= 1
            self._seen[caller.host] = (now, 0) if told else (last, count + 1)
            if len(self._seen) > self.MOST:
                self._seen.popitem(last=False)
        if told:
            who = caller.host + (f" ({caller.name})" if caller.name else "")
            more = f", and {count} more since the last line" if count else ""
            extra = {"request_id": caller.request_id, "peer": caller.peer}
            self._log.warning("%s: %s at %s%s", who, code, method, more, extra=extra)
