"""Memory of the GPUs, as NVIDIA's driver tells it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agvas_runtime.nvml import gpus, open_library


@dataclass(frozen=True)
class GpuMemory:
    """A GPU as the driver counts them, whatever CUDA_VISIBLE_DEVICES says."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int


@lru_cache(maxsize=1)
def _library() -> Any:
    """NVML, initialised once for the process; None where there is no driver."""
    return open_library()


def gpu_memory() -> list[GpuMemory]:
    """Every GPU's memory now; empty where there is none. A GPU that does not tell is left out."""
    found = [(gpu, gpu.memory()) for gpu in gpus(_library())]
    return [GpuMemory(gpu.index, gpu.name, told.used, told.total) for gpu, told in found if told is not None]
