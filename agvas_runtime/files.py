"""Writing result files: whole or not at all, and never two results under one name."""

import glob
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

from agvas_runtime.errors import EngineError, InputError

PART = ".part"
"""Ends the name of a folder that is being written; nothing of ours opens one."""


def make_folder(folder: Path) -> Path:
    """Make a folder for results; raises InputError naming it when that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder: {error.strerror}") from None
    return folder


def check_folder(folder: Path) -> None:
    """Look before long work whether files can be put into this folder, which need not be there yet; makes nothing.

    Raises InputError naming it when that is impossible.
    """
    try:
        with TemporaryFile(dir=next(each for each in (folder, *folder.absolute().parents) if each.exists())):
            pass
    except OSError as error:
        raise InputError(f"{folder}: cannot write into this folder: {error.strerror}") from None


def check_place(path: Path) -> None:
    """As `check_folder`, for a file that `write_whole` is to write: its place is free or a file, and its folder fit."""
    try:
        fault = _no_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    if fault:
        raise InputError(f"{path}: {fault}")
    check_folder(_behind_links(path).parent)


def check_replaceable(folder: Path) -> None:
    """Raise InputError where a finished folder could not take this one's place: a mount point, the current folder."""
    real = folder.resolve()
    if os.path.ismount(real):
        raise InputError(f"{folder}: is a mount point; name a folder in it")
    if real.exists() and real.samefile("."):
        raise InputError(f"{folder}: is the current folder; name a folder in it")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: readers see the old file or the new one, never half of it. A link stays one.

    Raises:
        InputError: its folder cannot be made.
        EngineError: the file cannot be written (no rights, disk full, a folder or a device has this name); nothing of
            it is left behind.
    """
    write_all({path: data})


def write_all(contents: Mapping[Path, bytes]) -> None:
    """As `write_whole`, for files that belong together: none has its name before all are written. Raises as that."""
    ready: dict[Path, tuple[Path, Path]] = {}
    path = Path()
    try:
        for path, data in contents.items():
            make_folder(path.parent)
            if fault := _no_file(path):
                raise EngineError(f"{path}: cannot write: {fault}")
            place = _behind_links(path)
            begins = os.fsdecode(os.fsencode(place.name)[:100])
            ready[path] = place.with_name(f".{begins}.{os.getpid()}-{len(ready)}{PART}"), place
            ready[path][0].write_bytes(data)
        for path in ready:
            os.replace(*ready[path])
    except OSError as error:
        raise EngineError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        for temporary, _ in ready.values():
            temporary.unlink(missing_ok=True)


def _no_file(path: Path) -> str | None:
    """What is wrong where something else than a file has this name; None where nothing is. Raises OSError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    return f"found a {'folder' if stat.S_ISDIR(mode) else 'device, pipe or socket'}, expected a file to write"


def _behind_links(path: Path) -> Path:
    return Path(os.path.realpath(path))


def lock_folder(folder: Path, taken: str) -> int:
    """Keep other processes out of a folder until the returned file is closed. For Linux and macOS.

    Args:
        folder: is there; `.lock` in it stays afterwards.
        taken: what to say where another process is in it.

    Raises InputError saying so, EngineError where it cannot be locked.
    """
    import fcntl

    place = folder / ".lock"
    try:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise EngineError(f"{place}: cannot write: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise InputError(f"{folder}: {taken}") from None
        raise EngineError(f"{place}: cannot lock: {error.strerror}") from None
    return handle


@contextmanager
def hidden_folder(place: Path) -> Iterator[Path]:
    """A hidden folder beside a place, to be filled and renamed; it is gone at the end, whatever happens.

    A lock says that its writer lives. Those that killed writers of the same place left are unlocked, and go first;
    where folders cannot be locked, they stay. For Linux and macOS.

    Raises OSError.
    """
    import fcntl

    for left in place.parent.glob(f".{glob.escape(place.name)}-{'?' * 8}{PART}"):
        with suppress(OSError):  # its writer is at work, or it is no folder of ours
            handle = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)
    while True:
        work = Path(mkdtemp(prefix=f".{place.name}-", suffix=PART, dir=place.parent))
        with suppress(FileNotFoundError):  # another writer took it for a left one before it was locked
            lock = os.open(work, os.O_RDONLY)
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if work.exists():
                break
            os.close(lock)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A hidden folder beside the place that takes its name at the end; goes where anything fails.

    What a killed process left of the same place goes, too.

    Raises:
        InputError: the place cannot be replaced, or the folder around it cannot be made.
        EngineError: a file cannot be written.
    """
    check_replaceable(place)
    place = place.resolve()
    make_folder(place.parent)
    try:
        with hidden_folder(place) as work:
            yield work
            umask = os.umask(0)
            os.umask(umask)
            work.chmod(0o777 & ~umask)
            work.replace(place)
    except OSError as error:
        raise EngineError(f"{place}: cannot write: {error.strerror or error}") from None


def result_names(images: Sequence[tuple[Path, Path]]) -> list[str]:
    """For each image the name its results carry: its path inside the folder it was found in, without its suffix.

    Where that would give two images one name, all keep their path from their common folder on, and where even that is
    not enough (`part.png` beside `part.jpg`) their suffix too.

    Args:
        images: (folder, image below it) each; no image twice.
    """
    paths = [Path(os.path.abspath(image)) for _, image in images]
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    short = [str(image.relative_to(folder).with_suffix("")) for folder, image in images]
    long = [path.relative_to(common) for path in paths]
    for names in (short, [str(path.with_suffix("")) for path in long]):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in long]
