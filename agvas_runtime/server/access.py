"""Who may call the server, what they may do, and how often. It knows no gRPC."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic

from agvas_runtime.server import access_file
from agvas_runtime.server.access_file import Entry, Right
from agvas_runtime.server.reread import POLL_S, Reread

ALL_RIGHTS: frozenset[Right] = frozenset(("inspect", "admin"))

UNASKED = "found certificate, which no client is asked for without client_ca: nobody is let in by it"
"""What is wrong with an entry that cannot be used."""

_LOG = logging.getLogger("agvas.access")


@dataclass(frozen=True)
class Principal:
    """Somebody the server knows."""

    name: str
    rights: frozenset[Right]


class Principals:
    """What an access file says."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = [(Principal(entry.name, frozenset(entry.rights)), entry) for entry in entries]

    @classmethod
    def read(cls, path: Path) -> Principals:
        """Read an access file; raises InputError."""
        return cls(access_file.read(path))

    @property
    def names(self) -> list[str]:
        """Of all principals, in the file's order."""
        return [principal.name for principal, _ in self._entries]

    @property
    def certified(self) -> list[str]:
        """Names of those who have to show a certificate."""
        return [principal.name for principal, entry in self._entries if entry.certificate is not None]

    def find(self, token: str | None, certificates: frozenset[str] = frozenset()) -> Principal | None:
        """Whose token, or whose certificate's name, this is.

        A token decides where there is one, and every entry is compared with it: the time tells nothing about it. Of
        several entries whose certificate fits, the first one counts.
        """
        shown = "" if token is None else hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for principal, entry in self._entries:
            known = hmac.compare_digest(entry.token_sha256 or "-" * 64, shown or "=" * 64)
            certified = entry.certificate in certificates
            if entry.token_sha256 is None:
                fits = token is None and certified
            else:
                fits = known and (entry.certificate is None or certified)
            if fits and found is None:
                found = principal
        return found


class Access:
    """The access file as it is now: changed rights count from the next call on, a broken file leaves the old ones.

    Args:
        path: the file.
        log: where changes are told, and entries that let nobody in.
        poll_s: how often the file is looked at, at most.
        certificates: whether clients are asked for certificates; an entry with one lets nobody in where they are not.

    Raises:
        InputError: the file cannot be used to begin with.
    """

    def __init__(
        self, path: Path, log: logging.Logger = _LOG, poll_s: float = POLL_S, *, certificates: bool = True
    ) -> None:
        def read() -> Principals:
            found = Principals.read(path)
            if found.certified and not certificates:
                log.warning("%s: %s: %s", path, ", ".join(found.certified), UNASKED)
            return found

        self._file = Reread([path], read, log, poll_s)

    def current(self) -> Principals:
        """What the file says; another object when it says something else."""
        return self._file.current()


class Bucket:
    """Bounds a rate: `rate_per_s` in the long run, `burst` at once. Safe to use from several threads.

    Args:
        rate_per_s: above 0.
        burst: at least 1; twice the rate where None.
        clock: seconds.
    """

    def __init__(self, rate_per_s: float, burst: float | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst = rate_per_s, max(1.0, 2 * rate_per_s if burst is None else burst)
        self._clock, self._lock = clock, Lock()
        self._left, self._seen = self._burst, clock()

    def take(self) -> bool:
        """Take one, if there is one."""
        with self._lock:
            self._fill()
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def give_back(self) -> None:
        """Nothing came of what was taken."""
        with self._lock:
            self._left = min(self._burst, self._left + 1)

    def wait_s(self) -> float:
        """Seconds until there is one."""
        with self._lock:
            self._fill()
            return max(0.0, (1 - self._left) / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now


class Buckets:
    """A bucket for each key; of too many the one that was used longest ago is forgotten."""

    MOST = 1024

    def __init__(self, rate_per_s: float) -> None:
        self._rate, self._lock = rate_per_s, Lock()
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: Hashable) -> Bucket:
        """The bucket of this key."""
        with self._lock:
            bucket = self._buckets.setdefault(key, Bucket(self._rate))
            self._buckets.move_to_end(key)
            if len(self._buckets) > self.MOST:
                self._buckets.popitem(last=False)
            return bucket
