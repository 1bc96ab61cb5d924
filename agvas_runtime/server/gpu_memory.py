"""Memory of the GPUs, asked of NVIDIA's management library through ctypes: it takes no package and no CUDA context."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

NAME_BYTES = 96
"""NVML_DEVICE_NAME_V2_BUFFER_SIZE."""


@dataclass(frozen=True)
class GpuMemory:
    """A GPU as the driver counts them, whatever CUDA_VISIBLE_DEVICES says."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """NVML, initialised once for the process; None where there is no driver."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if library.nvmlInit_v2() == 0 else None


def gpu_memory() -> list[GpuMemory]:
    """Every GPU's memory now; empty where there is none. A GPU that does not tell is left out."""
    library, count = _library(), ctypes.c_uint()
    if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return []
    found = []
    for index in range(count.value):
        device, memory, name = ctypes.c_void_p(), _Memory(), ctypes.create_string_buffer(NAME_BYTES)
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            continue
        if library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)):
            continue
        if library.nvmlDeviceGetName(device, name, NAME_BYTES):
            name.value = b"GPU"
        found.append(GpuMemory(index, name.value.decode("utf-8", "replace"), memory.used, memory.total))
    return found
