"""How glibc keeps the server's heap. Other C libraries are left as they are."""

import ctypes
import gc
from typing import Any

LARGE_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3

_libc: Any = ctypes.CDLL(None)


def keep_apart() -> None:
    """Give every large buffer pages of its own, for good; call it before there are threads.

    By itself glibc learns from the first frame of many megabytes to put the next ones among small objects, and pages
    that are full of holes never go back to the system: every client that vanished while it sent cost 26 MB of them.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """Give free pages back to the system, and what only waits to be collected: a frame may hang in a broken call."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
