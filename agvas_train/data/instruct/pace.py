"""When the next request may go out: a rate for all threads together, and the pauses that an endpoint asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime


class Pace:
    """Lets requests pass one by one, evenly spread, for any number of threads."""

    def __init__(
        self,
        per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._between_s = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._due = clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when this request may go out."""
        while True:
            with self._lock:
                now = self._clock()
                if (left := self._due - now) <= 0:
                    self._due = now + self._between_s
                    return
            self._sleep(left)

    def hold(self, seconds: float) -> None:
        """Let nobody pass for so long."""
        with self._lock:
            self._due = max(self._due, self._clock() + seconds)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a Retry-After header asks for, given as a number or as a date; None where it says neither."""
    if not value:
        return None
    try:
        if value.strip().isdecimal():
            return float(value)
        then = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=timezone.utc)
    return max((then - (now or datetime.now(timezone.utc))).total_seconds(), 0.0)
