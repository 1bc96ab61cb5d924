"""What a process and its children have in memory, pages that they share counted once. For Linux.

Unlike PSS and USS it does not depend on which other processes happen to use the same libraries.
"""

from __future__ import annotations

from io import FileIO
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

PAGE = 4096
PRESENT, OF_A_FILE = np.uint64(1 << 63), np.uint64(1 << 61)
"""Bits of an entry in /proc/PID/pagemap. Shared memory is a file's, too; a changed private page is not."""

TRIMMED_S = 6.5
"""After so long without a call a server has given back what it keeps for the next one: it waits for 5."""

Pages = dict[tuple[str, str], set[int]]
"""(device, inode) to the pages of the file."""


def resident_bytes(pid: int) -> dict[int, int]:
    """Of the process and of each of its children, by pid; what several of them have is counted at the first one."""
    process, shared = psutil.Process(pid), Pages()
    return {each.pid: _own_bytes(each.pid, shared) for each in [process, *process.children(recursive=True)]}


def _own_bytes(pid: int, shared: Pages) -> int:
    folder = Path(f"/proc/{pid}")
    count = 0
    with FileIO(folder / "pagemap") as pagemap:
        for line in (folder / "maps").read_text().splitlines():
            addresses, _, offset, device, inode, *_ = line.split(maxsplit=5)
            begin, end = (int(address, 16) // PAGE for address in addresses.split("-"))
            entries = _entries(pagemap, begin, end)
            present = (entries & PRESENT) != 0
            of_a_file = present & ((entries & OF_A_FILE) != 0)
            count += int(np.count_nonzero(present & ~of_a_file))
            known = shared.setdefault((device, inode), set())
            found = set((np.flatnonzero(of_a_file) + int(offset, 16) // PAGE).tolist())
            count += len(found - known)
            known |= found
    return count * PAGE


def _entries(pagemap: FileIO, begin: int, end: int) -> NDArray[np.uint64]:
    pagemap.seek(begin * 8)
    return np.frombuffer(pagemap.read((end - begin) * 8), np.uint64)
