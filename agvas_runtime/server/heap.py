"""How glibc keeps the server's heap. Other C libraries are left as they are."""

import ctypes
import gc
from typing import Any

LARGE_BYTES = 1536 << 10
KEPT_BYTES = 8 << 20
"""Free memory at the heap's end that is kept while frames come; `trim` gives it back."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_libc: Any = ctypes.CDLL(None)


def keep_apart() -> None:
    """Give every large buffer pages of its own, and smaller ones none that are new each time; before there are threads.

    By itself glibc learns from the first frame of many megabytes to put the next ones among small objects, and pages
    that are full of holes never go back to the system: every client that vanished while it sent cost 26 MB of them.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        _libc.mallopt(-8, 2)


def trim() -> None:
    """Give free pages back to the system, and what only waits to be collected: a frame may hang in a broken call."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
