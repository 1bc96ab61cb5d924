"""How glibc keeps the server's heap. Other C libraries are left as they are."""

import ctypes
import gc
from typing import Any

LARGE_BYTES = 1536 << 10
KEPT_BYTES, PARTS = 8 << 20, 2
"""Free memory that each part of the heap keeps at its end, and how many parts there are for all threads together."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_libc: Any = ctypes.CDLL(None)


def keep_apart() -> None:
    """Give every large buffer pages of its own, and frames of a megabyte the same pages again. Call it before threads.

    By itself glibc learns from the first frame of many megabytes to put the next ones among small objects, and pages
    that are full of holes never go back to the system: every client that vanished while it sent cost 26 MB of them. And
    it gives the end of the heap back with every frame, to get it again, page by page, with the next one.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        _libc.mallopt(_M_ARENA_MAX, PARTS)


def keep_collected() -> None:
    """Leave what there is by now to itself: the collector need not go through all of it with every frame's garbage."""
    gc.collect()
    gc.freeze()


def trim() -> None:
    """Give free pages back to the system, and what only waits to be collected: a frame may hang in a broken call."""
    gc.collect()
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
