"""Memory that this process takes of a GPU, as the driver sees it: contexts, libraries and workspaces included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from agvas_runtime.nvml import Gpu

PROCESS, WHOLE_GPU = "process", "gpu"
CONTEXT_BYTES = 32 * 2**20
"""Less than any CUDA context takes."""


class InUse(NamedTuple):
    """The GPU that the process uses, and what was counted there."""

    gpu: Gpu
    counts: str
    """Whose memory: PROCESS, or WHOLE_GPU where the driver lists no processes, as in most containers."""
    seen: list[int]
    """Bytes at every look."""


class DeviceMemory:
    """Looks at the GPUs when it is made, and whenever it is told to: first after loading, then after every call.

    What is taken and given back between two looks is not seen; engines keep the memory that they took.
    """

    def __init__(self, gpus: Sequence[Gpu], pid: int) -> None:
        self._gpus, self._pid = gpus, pid
        self._own: list[list[int]] = [[] for _ in gpus]
        self._used: list[list[int]] = [[] for _ in gpus]
        self.look()

    def look(self) -> None:
        """Ask the driver now."""
        for gpu, own, used in zip(self._gpus, self._own, self._used, strict=True):
            own.append(gpu.process_bytes(self._pid) or 0)
            used.append(gpu.used_bytes() or 0)

    def in_use(self) -> InUse | None:
        """The GPU that the process uses; None where it uses none, as far as the driver tells.

        Without a list of processes it is the GPU whose use grew most, if a CUDA context can be in it.
        """
        if not self._gpus:
            return None
        # A number that is listed before anything was loaded is another process's: drivers count outside of containers.
        own = [0 if seen[0] else max(seen) for seen in self._own]
        index = own.index(max(own))
        if own[index]:
            return InUse(self._gpus[index], PROCESS, self._own[index])
        grown = [max(used) - used[0] for used in self._used]
        index = grown.index(max(grown))
        return InUse(self._gpus[index], WHOLE_GPU, self._used[index]) if grown[index] >= CONTEXT_BYTES else None

    def report(self) -> dict[str, Any] | None:
        """Name of the GPU in use, whose memory counts, bytes before loading, after it, and at the peak."""
        found = self.in_use()
        if found is None:
            return None
        before, loaded = found.seen[0], found.seen[min(1, len(found.seen) - 1)]
        sizes = {"before_bytes": before, "loaded_bytes": loaded, "peak_bytes": max(found.seen)}
        return {"name": found.gpu.name, "counts": found.counts, **sizes}
