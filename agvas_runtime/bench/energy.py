"""Energy counters: of a GPU as its driver counts, or of the processors through the kernel's powercap (RAPL).

Both count everything that the GPU, or all processors of the machine, take: idling, and others' work, are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agvas_runtime.control_group import read_text
from agvas_runtime.nvml import Gpu

POWERCAP = Path("/sys/class/powercap")
PACKAGE = "package"
"""How the zones of whole processors are named; those inside them, and of the whole platform, would count twice."""


class Counter(NamedTuple):
    """Something that counts up, and begins at 0 again."""

    read: Callable[[], int | None]
    """None where it cannot be read."""
    largest: int
    """After this it begins again."""


class Meter:
    """Adds up what counters gain from when it is made. Look at it more often than a counter begins again."""

    def __init__(self, source: str, counters: Sequence[Counter], joules_per_count: float) -> None:
        self.source = source
        self._counters, self._joules_per_count = counters, joules_per_count
        self._last = [counter.read() for counter in counters]
        self._gained = 0

    def joules(self) -> float | None:
        """Joules since it was made; None where a counter could not be read."""
        for index, counter in enumerate(self._counters):
            last, now = self._last[index], counter.read()
            self._last[index] = now
            if last is None or now is None:
                self._last = [None for _ in self._counters]
                return None
            self._gained += now - last if now >= last else now - last + counter.largest
        return self._gained * self._joules_per_count


def open_meter(gpu: Gpu | None, powercap: Path = POWERCAP) -> Meter | None:
    """The meter of the GPU that is in use, or of the processors where none is; None where nothing can be read."""
    if gpu is not None:
        return Meter("nvml", [Counter(gpu.energy_mj, 2**64)], 1e-3) if gpu.energy_mj() is not None else None
    counters = packages(powercap)
    return Meter("rapl", counters, 1e-6) if counters else None


def packages(powercap: Path) -> list[Counter]:
    """Microjoules of every processor; none where one of them cannot be read: the kernel lets root read them alone."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's too
        if read_text(zone / "name").startswith(PACKAGE):
            file, largest = zone / "energy_uj", read_text(zone / "max_energy_range_uj")
            if _number(file) is None or not largest.isdigit():
                return []
            found.append(Counter(partial(_number, file), int(largest)))
    return found


def _number(file: Path) -> int | None:
    text = read_text(file)
    return int(text) if text.isdigit() else None
