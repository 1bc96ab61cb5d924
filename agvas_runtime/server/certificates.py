"""When a certificate ends, read from its file without a package: the few steps through DER that lead there."""

from __future__ import annotations

import re
import ssl
from datetime import datetime, timezone
from pathlib import Path

from agvas_runtime.errors import InputError

PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
UTC_TIME, GENERALIZED_TIME, VERSION = 0x17, 0x18, 0xA0
"""Tags of DER."""


def not_after(path: Path) -> datetime:
    """The last moment of the first certificate in a PEM file. Raises InputError if there is none that can be read."""
    try:
        found = PEM.search(path.read_text("ascii"))
        if found is None:
            raise InputError(f"{path}: found no certificate, expected PEM")
        signed = _parts(_parts(ssl.PEM_cert_to_DER_cert(found.group()))[0][1])[0][1]
        # TBSCertificate: version (may be left out), serial number, signature, issuer, validity (RFC 5280, 4.1)
        fields = _parts(signed)
        validity = fields[4 if fields[0][0] == VERSION else 3][1]
        tag, text = _parts(validity)[1]
        return _moment(tag, text.decode("ascii"))
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, IndexError):
        raise InputError(f"{path}: the first certificate cannot be read") from None


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
