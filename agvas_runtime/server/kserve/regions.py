"""System shared memory that callers on this machine have registered, so that tensors need not travel.

Nothing is mapped: the caller owns the file and may cut it off at any time, which would end the process that reads a
mapping of it. Reading and writing the file fails in an orderly way, and costs no copy more.
"""

from __future__ import annotations

import os
import re
import stat
import weakref
from pathlib import Path
from threading import Lock

from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError, NotFound, NotNow
from agvas_runtime.server.kserve.wire import Content
from agvas_runtime.server.statuses import TooMuch

FOLDER = Path("/dev/shm")
"""Where POSIX's shared memory lies on Linux."""
_KEY = re.compile(r"/?(agvas-[A-Za-z0-9._-]{1,64})")
_NAME = re.compile(r"[ -~]{1,128}")
MOST_REGIONS = 64
"""Of all callers together; each takes an open file."""


class Region:
    """A part of a file of shared memory, open for as long as somebody has this object."""

    def __init__(self, name: str, key: str, fd: int, offset: int, size: int) -> None:
        self.name, self.key, self.offset, self.size = name, key, offset, size
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of it; raises InputError where they are not there."""
        self.check(offset, size)
        try:
            content = os.pread(self._fd, size, self.offset + offset)
        except OSError as error:
            raise InputError(f"region {self.name}: cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise InputError(f"region {self.name}: found its end after {len(content)} bytes, expected {size}: cut off")
        return content

    def write(self, offset: int, content: Content) -> None:
        """Put bytes into it; raises InputError where that cannot be done."""
        size = len(content)
        self.check(offset, size)
        try:
            written = os.pwrite(self._fd, content, self.offset + offset)
        except OSError as error:
            raise InputError(f"region {self.name}: cannot be written: {error.strerror}") from None
        if written < size:
            raise InputError(f"region {self.name}: found room for {written} bytes, expected {size}")

    def check(self, offset: int, size: int) -> None:
        """Raise InputError for bytes that do not lie in it."""
        if not 0 <= offset <= offset + size <= self.size:
            found = f"found {size} bytes at {offset}"
            raise InputError(f"region {self.name}: {found}, expected them within its {self.size} bytes")

    @property
    def is_orphan(self) -> bool:
        """Whether its file has no name any more."""
        return os.fstat(self._fd).st_nlink == 0


class Regions:
    """All of them, each for the caller who registered it alone. Safe to use from several threads.

    Args:
        most_bytes: of all regions together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._regions: dict[tuple[str, str], Region] = {}
        self._lock = Lock()

    def register(self, owner: str, name: str, key: str, offset: int, size: int) -> None:
        """Open a region.

        Raises InputError for one that cannot be used, NotFound where there is none of this key, NotNow for a name that
        is taken, TooMuch for one too many.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"name: found {one_line(name[:128])!r}, expected 1 to 128 printable characters of ASCII")
        region = _opened(name, key, offset, size)
        with self._lock:
            if (owner, name) in self._regions:
                raise NotNow(f"region {name}: it is registered already; unregister it first")
            if not self._has_room(size):
                self._forget_orphans()
            if not self._has_room(size):
                there = f"{len(self._regions)} regions of {self._bytes} bytes in all"
                allowed = f"at most {MOST_REGIONS} of {self._most_bytes}"
                raise TooMuch(f"region {name}: found {there}, expected {allowed} with these {size}")
            self._regions[owner, name] = region

    def unregister(self, owner: str, name: str) -> None:
        """Forget a region, or all of this caller's where there is no name. One that is not there is forgotten."""
        with self._lock:
            for each in [key for key in self._regions if key[0] == owner and name in ("", key[1])]:
                del self._regions[each]

    def all(self, owner: str) -> list[Region]:
        """A caller's regions."""
        with self._lock:
            return [region for (of, _), region in self._regions.items() if of == owner]

    def get(self, owner: str, name: str) -> Region:
        """A caller's region; raises NotFound."""
        with self._lock:
            region = self._regions.get((owner, name))
        if region is None:
            raise NotFound(f"region {one_line(name[:128])}: found none of this name, expected a registered one")
        return region

    def close(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._regions.clear()

    @property
    def _bytes(self) -> int:
        return sum(region.size for region in self._regions.values())

    def _has_room(self, size: int) -> bool:
        return len(self._regions) < MOST_REGIONS and self._bytes + size <= self._most_bytes

    def _forget_orphans(self) -> None:
        """Make room: whoever made these is done with them, or dead."""
        for each in [key for key, region in self._regions.items() if region.is_orphan]:
            del self._regions[each]


def _opened(name: str, key: str, offset: int, size: int) -> Region:
    """The region of a key that is a file of ours, and no way to any other file. Raises InputError, NotFound."""
    found = _KEY.fullmatch(key)
    if found is None:
        expected = "'/agvas-' and 1 to 64 letters, digits and . _ -"
        raise InputError(f"key: found {one_line(key[:128])!r}, expected {expected}")
    try:
        fd = os.open(FOLDER / found[1], os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"key: found no shared memory {key}, expected one") from None
    except OSError as error:
        raise InputError(f"key: {key} cannot be opened: {(error.strerror or str(error)).lower()}") from None
    region = Region(name, key, fd, offset, size)
    state = os.fstat(fd)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        raise InputError(f"key: found {key}, which is no file of shared memory by one name, expected one")
    if state.st_uid != os.geteuid():
        raise InputError(f"key: found {key} of user {state.st_uid}, expected one of the server's, {os.geteuid()}")
    if size < 1 or offset + size > state.st_size:
        expected = f"at least 1, within the {state.st_size} bytes of {key}"
        raise InputError(f"byte_size: found {size} at {offset}, expected {expected}")
    return region
