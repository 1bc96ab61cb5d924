"""NVIDIA's management library through ctypes, without a package or a CUDA context: what the driver counts of a GPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

NAME_BYTES, VERSION_BYTES = 96, 80
"""NVML_DEVICE_NAME_V2_BUFFER_SIZE, NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE."""
MOST_PROCESSES = 1024
NOT_TOLD = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE."""


class Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Process(ctypes.Structure):
    """nvmlProcessInfo_t, since version 2 of the call."""

    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver knows it, whatever CUDA_VISIBLE_DEVICES says."""

    index: int
    name: str
    library: Any
    handle: ctypes.c_void_p

    def memory(self) -> Memory | None:
        """Its memory now, `used` by all processes and the driver; None where that is not told."""
        memory = Memory()
        return memory if _ask(self.library, "DeviceGetMemoryInfo", self.handle, ctypes.byref(memory)) else None

    def used_bytes(self) -> int | None:
        """Memory that all processes and the driver use; None where that is not told."""
        memory = self.memory()
        return None if memory is None else int(memory.used)

    def process_bytes(self, pid: int) -> int | None:
        """Memory that a process uses; None where the driver does not list it, as in most containers."""
        count, found = ctypes.c_uint(MOST_PROCESSES), (Process * MOST_PROCESSES)()
        if not _ask(
            self.library, "DeviceGetComputeRunningProcesses_v3", self.handle, ctypes.byref(count), ctypes.byref(found)
        ):
            return None
        listed = (each for each in found[: count.value] if each.pid == pid and each.used != NOT_TOLD)
        return next((each.used for each in listed), None)

    def energy_mj(self) -> int | None:
        """Millijoules since the driver was loaded; None where that is not told (before Volta)."""
        energy = ctypes.c_ulonglong()
        told = _ask(self.library, "DeviceGetTotalEnergyConsumption", self.handle, ctypes.byref(energy))
        return energy.value if told else None


def open_library() -> Any:
    """NVML, initialised; None where there is no driver."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return library if _ask(library, "Init_v2") else None


def gpus(library: Any) -> list[Gpu]:
    """The GPUs that a library shows; none where it is None."""
    count = ctypes.c_uint()
    if library is None or not _ask(library, "DeviceGetCount_v2", ctypes.byref(count)):
        return []
    found = []
    for index in range(count.value):
        handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(NAME_BYTES)
        if _ask(library, "DeviceGetHandleByIndex_v2", index, ctypes.byref(handle)):
            _ask(library, "DeviceGetName", handle, name, NAME_BYTES)
            found.append(Gpu(index, name.value.decode("utf-8", "replace") or "GPU", library, handle))
    return found


def driver_version(library: Any) -> str | None:
    """As in "570.86.15"; None where the library is None or does not tell."""
    version = ctypes.create_string_buffer(VERSION_BYTES)
    if library is None or not _ask(library, "SystemGetDriverVersion", version, VERSION_BYTES):
        return None
    return version.value.decode("utf-8", "replace") or None


def _ask(library: Any, name: str, *arguments: Any) -> bool:
    """Whether the driver answered; an older library lacks some of the functions."""
    function = getattr(library, f"nvml{name}", None)
    return function is not None and function(*arguments) == 0
