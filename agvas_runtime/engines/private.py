"""Folders and files that only their owner, or root, can have written; and the lock that one build of engines holds.

Knows where the engines of a bundle may lie, and nothing of what is in them.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agvas_runtime.bundle import ENGINES, Bundle
from agvas_runtime.errors import BundleError, EngineError
from agvas_runtime.files import write_whole

LOCK = ".lock"


def homes(bundle: Bundle) -> list[Path]:
    """The folders that may hold a bundle's engines: its own first, then the user's cache, for bundles of others."""
    places = [bundle.folder / ENGINES]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return places
    return [*places, cache / "agvas" / ENGINES / bundle.manifest.content_sha256[:16]]


def home_to_write(bundle: Bundle) -> Path:
    """The first of `homes` that this user can write to; the bundle's own where there is none."""
    own, *others = homes(bundle)
    return others[0] if others and not _is_ours(own) else own


def _is_ours(home: Path) -> bool:
    """Whether this user can put files there; a home that is missing has to be made in the bundle."""
    if not os.path.lexists(home):
        return os.access(home.parent, os.W_OK | os.X_OK, effective_ids=True)
    if home.lstat().st_uid != os.geteuid():
        return False
    return home.is_symlink() or os.access(home, os.W_OK | os.X_OK, effective_ids=True)  # a link is refused later on


def make_folders(home: Path, name: str) -> Path:
    """Make `home/name`, both private. Raises EngineError where that cannot be, BundleError where they are not safe."""
    folder = home / name
    try:
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (home, folder):
            if not os.path.lexists(path):
                path.mkdir(mode=0o700)
            check_private(path, is_folder=True)
    except OSError as error:
        raise EngineError(f"{folder}: cannot make this folder: {error.strerror}") from None
    return folder


def check_private(path: Path, is_folder: bool) -> None:
    """Raise BundleError unless this is a folder or file that nobody but this user or root could have written.

    Raises OSError where it cannot be looked at.
    """
    status = path.lstat()
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(status.st_mode):
        found = "a link" if stat.S_ISLNK(status.st_mode) else f"no {'folder' if is_folder else 'file'}"
        raise BundleError(f"{path}: is {found}; engines are native code and only taken from where they were built")
    if status.st_uid not in (0, os.geteuid()):
        raise BundleError(
            f"{path}: belongs to user {status.st_uid}, not to you ({os.geteuid()}); build your own engines"
        )
    if status.st_mode & (0o077 if is_folder and status.st_uid else 0o022):
        others = f"chmod {'go-w' if not status.st_uid else '700' if is_folder else '600'} {path}"
        raise BundleError(f"{path}: is open to other users; if its content is yours: {others}")


def write_private(path: Path, content: Any) -> None:
    """Write a file of mode 0600, whole or not at all. Raises EngineError."""
    mask = os.umask(0o077)
    try:
        write_whole(path, content)
    finally:
        os.umask(mask)


@contextmanager
def locked(home: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of the builds in a home of engines; it goes with the process that holds it.

    Args:
        home: its folder, which exists.
        waiting: called as long as another build holds the lock; it should take a moment, and may raise.

    Raises:
        EngineError: another build holds it and nobody wants to wait, or the lock cannot be made.
    """
    path = home / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    try:
        while not _taken(handle, path):
            if waiting is None:
                raise EngineError(f"{home}: another build of these engines is running")
            waiting()
        yield
    finally:
        os.close(handle)


def _taken(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise EngineError(f"{path}: {error.strerror}") from None
    return True
