"""Processes that measure side by side, one at a time: what the machine does in the meantime meets all of them alike."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agvas_runtime.errors import InputError

YIELD_S = 0.05
"""So long nothing is asked for after a turn: whoever waits comes first."""


class ByTurns:
    """A turn among all processes that name the same file; without a file every turn is there at once.

    Args:
        file: made where it is not there; it stays empty.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While inside, no other process is. Waits for its turn. Raises InputError where the file cannot be made."""
        if self.file is None:
            yield
            return
        import fcntl

        try:
            held = self.file.open("a")
        except OSError as error:
            raise InputError(f"--by-turns {self.file}: cannot be opened: {error.strerror}") from None
        with held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
        time.sleep(YIELD_S)
