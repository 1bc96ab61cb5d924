"""Certificates of server and clients, and what a server may show to a network. It knows no tokens and no rights."""

from __future__ import annotations

import logging
import ssl
from datetime import datetime, timezone
from ipaddress import ip_address
from pathlib import Path

import grpc

from agvas_runtime.errors import InputError
from agvas_runtime.server.certificates import last_moments
from agvas_runtime.server.reread import POLL_S, Reread

_LOG = logging.getLogger("agvas.tls")


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, stays on this machine."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_exposure(
    host: str,
    *,
    cert: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    access: Path | None = None,
    insecure: bool = False,
) -> None:
    """Refuse to be heard beyond this machine without encryption or without asking who calls.

    Raises:
        InputError: says what is missing and what to do; also where a part of the settings would be without effect.
    """
    if (cert is None) != (key is None):
        given, other = ("tls_cert", "tls_key") if key is None else ("tls_key", "tls_cert")
        raise InputError(f"{given}: found no {other} beside it, expected both: a certificate and its private key")
    if client_ca is not None and cert is None:
        raise InputError(
            "client_ca: found no tls_cert and tls_key beside it, expected both: without TLS nobody is asked"
        )
    if is_loopback(host) or insecure:
        return
    missing = [] if cert is not None else ["encryption (tls_cert and tls_key)"]
    if client_ca is None and access is None:
        missing.append("credentials (access, for tokens and rights, or client_ca, for client certificates)")
    if missing:
        raise InputError(
            f"host: found {host}, which other machines reach, without {' and without '.join(missing)}; "
            "give them, listen on 127.0.0.1, or say --insecure"
        )


def read_pair(cert: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate chain and its private key as PEM, checked to belong together. Raises InputError."""
    pair = _read(cert, "certificate"), _read(key, "private key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not readable as such"
        raise InputError(
            f"{cert}, {key}: found {str(reason).lower().replace('_', ' ')}, "
            "expected a certificate chain and its private key in PEM, without a passphrase"
        ) from None
    return pair


def read_ca(path: Path) -> bytes:
    """Certificates of authorities as PEM. Raises InputError."""
    data = _read(path, "certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=data.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        context = None  # type: ignore[assignment]
    if context is None or not context.cert_store_stats()["x509_ca"]:
        raise InputError(f"{path}: found no certificate of an authority, expected at least one in PEM")
    return data


def server_credentials(
    cert: Path, key: Path, client_ca: Path | None = None, *, log: logging.Logger = _LOG, poll_s: float = POLL_S
) -> grpc.ServerCredentials:
    """TLS for a port. The files are read again when they change, at the next connection; open ones stay as they are.

    A pair that does not belong together, a certificate that has ended, or anything else that cannot be used leaves the
    old one in use. At the start one that has ended is served and told: the clock may be what is wrong.

    Args:
        cert: the certificate, and those between it and the authority.
        key: its private key.
        client_ca: authorities of the clients' certificates; given, there is no handshake without such a certificate.
        log: where changes are told.
        poll_s: how often the files are looked at, at most.

    Raises:
        InputError: the files cannot be used to begin with.
    """

    in_use = b""

    def read() -> grpc.ServerCertificateConfiguration:
        nonlocal in_use
        chain, private = read_pair(cert, key)
        if in_use not in (b"", chain):
            _refuse_ended(cert)
        authorities = None if client_ca is None else read_ca(client_ca)
        for path in (cert, client_ca):
            if path is not None:
                _warn_of_ended(path, log)
        in_use = chain
        return grpc.ssl_server_certificate_configuration([(private, chain)], authorities)

    files = Reread([cert, key] if client_ca is None else [cert, key, client_ca], read, log, poll_s)
    _warn_of_readers(key, log)
    served = [files.current()]

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks before each handshake: None for no change."""
        found = files.current()
        if found is served[0]:
            return None
        served[0] = found
        return found

    return grpc.dynamic_ssl_server_credentials(served[0], changed, require_client_authentication=client_ca is not None)


def _refuse_ended(cert: Path) -> None:
    """Refuse a server's certificate, the first of its file, that has ended."""
    end = next(iter(_ends(cert)), None)
    if end is not None and end <= datetime.now(timezone.utc):
        raise InputError(f"{cert}: found a certificate that ended on {end:%Y-%m-%d}, expected one that lasts")


def _warn_of_ended(path: Path, log: logging.Logger) -> None:
    moments = _ends(path)
    for number, end in enumerate(moments, 1):
        if end <= datetime.now(timezone.utc):
            log.warning("%s: certificate %d of %d ended on %s: make a new one", path, number, len(moments), end.date())


def _ends(path: Path) -> list[datetime]:
    """When the certificates of a file end; empty where only OpenSSL can read them."""
    try:
        return last_moments(path)
    except InputError:
        return []


def _warn_of_readers(key: Path, log: logging.Logger) -> None:
    if key.stat().st_mode & 0o004:
        log.warning("%s: everybody on this machine may read this private key: chmod o-r", key)


def _no_passphrase() -> bytes:
    """For OpenSSL, which would ask at the terminal."""
    raise ValueError("a passphrase is needed")


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: found no {what}: {reason}, expected a PEM file") from None
