"""When certificates end, read from their file without a package: the few steps through DER that lead there."""

from __future__ import annotations

import re
import ssl
from datetime import datetime, timezone
from pathlib import Path

from agvas_runtime.errors import InputError

PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
UTC_TIME, GENERALIZED_TIME, VERSION = 0x17, 0x18, 0xA0
"""Tags of DER."""


def last_moments(path: Path) -> list[datetime]:
    """The last moment of every certificate in a PEM file, in its order; at least one.

    Raises InputError if there is none, or one that cannot be read.
    """
    try:
        found = PEM.findall(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not found:
        raise InputError(f"{path}: found no certificate, expected PEM")
    moments = []
    for number, pem in enumerate(found, 1):
        try:
            moments.append(_end(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))))
        except (ValueError, IndexError):
            raise InputError(f"{path}: certificate {number} of {len(found)} cannot be read") from None
    return moments


def _end(der: bytes) -> datetime:
    signed = _parts(_parts(der)[0][1])[0][1]
    # TBSCertificate: version (may be left out), serial number, signature, issuer, validity (RFC 5280, 4.1)
    fields = _parts(signed)
    validity = fields[4 if fields[0][0] == VERSION else 3][1]
    tag, text = _parts(validity)[1]
    return _moment(tag, text.decode("ascii"))


def _moment(tag: int, text: str) -> datetime:
    if tag == UTC_TIME:  # two digits: 1950 to 2049
        text = f"{'20' if int(text[:2]) < 50 else '19'}{text}"
    elif tag != GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _parts(data: bytes) -> list[tuple[int, bytes]]:
    """The elements that stand one behind the other: (tag, content). Raises IndexError, ValueError."""
    parts, at = [], 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("cut off")
        parts.append((tag, data[at : at + length]))
        at += length
    return parts
