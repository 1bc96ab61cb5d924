"""What this machine's CPU can do."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from pathlib import Path

from agvas_runtime.control_group import read_text

X86 = ("x86_64", "AMD64", "i686")
LARGE_PIXELS = 1 << 18
"""Of frames for which it pays to wake further threads."""
EIGHT_BIT_PRODUCTS = {"avx512_vnni", "avx_vnni"}


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets by Linux's names; elsewhere none is known."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", read_text(Path("/proc/cpuinfo")), re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clips_eight_bit_sums() -> bool:
    """Whether products of unsigned and signed bytes are summed in 16 bits, which 255 * 127 * 2 does not fit into.

    So it is on x86 without VNNI; where flags are not known, that is taken for granted.
    """
    return platform.machine() in X86 and not EIGHT_BIT_PRODUCTS & cpu_flags()
