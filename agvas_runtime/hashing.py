"""SHA-256 of files, read in pieces; hashes of large files are remembered for as long as the file is untouched."""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

PIECE_BYTES = 1 << 20
REMEMBER_FROM_BYTES = 256 << 20
"""Files from this size on are hashed once, not at every start; a small file takes no time worth saving."""


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, whatever its size, in constant memory."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


def remembered_sha256(path: Path, again: bool = False) -> str:
    """As sha256_file, but a large file whose device, inode, size and times are unchanged is not read again.

    `again` reads it in any case. The memory is a file that only its owner can read and write; it may be deleted.
    """
    status = path.stat()
    if status.st_size < REMEMBER_FROM_BYTES:
        return sha256_file(path)
    key = ":".join(
        str(part) for part in (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    )
    known = _load()
    if not again and key in known:
        return known[key]
    known[key] = sha256_file(path)
    with contextlib.suppress(OSError, RuntimeError):  # a read-only home, or none, costs time, nothing else
        _store(known)
    return known[key]


def _memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agvas" / "verified.json"


def _load() -> dict[str, str]:
    try:
        status = _memory().stat()
        if status.st_mode & 0o077 or status.st_uid != os.getuid():
            return {}  # others could have written it
        known = json.loads(_memory().read_text("utf-8"))
    except (OSError, ValueError, RuntimeError):  # the last: a user without a home
        return {}
    return known if isinstance(known, dict) else {}


def _store(known: dict[str, str]) -> None:
    folder = _memory().parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=folder)  # mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(known, file)
    os.replace(name, _memory())
