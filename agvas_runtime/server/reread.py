"""What small files say, read again when they change. What is in them is their readers' business."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Generic, TypeVar

from agvas_runtime.errors import InputError

Value = TypeVar("Value")
Stamp = tuple[int, int, int, int] | None

POLL_S = 1.0
"""How often the files are looked at, at most: a `stat` each."""


class Reread(Generic[Value]):
    """The value of some files. Whoever asks for it has it read again if they changed; nothing runs in between.

    Files that cannot be used any more leave the value as it was; the log says why, once for each state of the files.

    Args:
        paths: the files.
        read: makes the value of them; raises InputError.
        log: where changes are told.
        poll_s: how often the files are looked at, at most.

    Raises:
        InputError: they cannot be used to begin with.
    """

    def __init__(
        self, paths: Sequence[Path], read: Callable[[], Value], log: logging.Logger, poll_s: float = POLL_S
    ) -> None:
        self._paths, self._read, self._log, self._poll_s = tuple(paths), read, log, poll_s
        self._lock = threading.Lock()
        self._stamps = self._look()
        self._value = read()
        self._next = monotonic() + poll_s

    def current(self) -> Value:
        """The value now. Safe to call from several threads; one that is reading does not hold the others up."""
        if monotonic() >= self._next and self._lock.acquire(blocking=False):
            try:
                self._poll()
            finally:
                self._next = monotonic() + self._poll_s
                self._lock.release()
        return self._value

    def _poll(self) -> None:
        stamps = self._look()
        if stamps == self._stamps:
            return
        names = ", ".join(str(path) for path in self._paths)
        try:
            value = self._read()
        except InputError as error:
            self._stamps = stamps
            self._log.error("%s changed and cannot be used, what was read before stays: %s", names, error)
            return
        if self._look() != stamps:
            return  # it was being written meanwhile: the next look reads it whole
        self._value, self._stamps = value, stamps
        self._log.info("%s read again", names)

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> Stamp:
    """What differs when the file does; None where it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
