"""What this machine has for TensorRT: driver, GPU, memory, packages; and the little that builder and runner share.

The driver is asked first, through ctypes: where there is none, TensorRT 8.6 ends the process instead of failing.
"""

import ctypes
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agvas_runtime.errors import EngineError

NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE."""
MAJOR, MINOR, INTEGRATED = 75, 76, 18
"""CUdevice_attribute: compute capability, and whether the GPU shares the machine's memory, as on a Jetson."""
ALIGNMENT = 256
"""Bytes; TensorRT wants its context memory so."""
MESSAGES_KEPT = 100
"""Of TensorRT's errors and of its warnings, the latest."""


@dataclass(frozen=True)
class Device:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses), and the versions that an engine depends on."""

    gpu: str
    compute_capability: str
    """As in "9.0"."""
    memory_bytes: int
    integrated: bool
    """True where GPU and CPU share one memory."""
    driver: str
    tensorrt: str
    cuda_python: str


def probe() -> Device:
    """What is here. Raises EngineError, one line, naming the first thing that is missing."""
    call = _driver()
    count, device = ctypes.c_int(), ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise EngineError("no GPU here: the NVIDIA driver shows none (see CUDA_VISIBLE_DEVICES)")
    call("cuDeviceGet", ctypes.byref(device), 0)
    name, memory, cuda = ctypes.create_string_buffer(256), ctypes.c_size_t(), ctypes.c_int()
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    call("cuDriverGetVersion", ctypes.byref(cuda))

    def attribute(which: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    trt = _package("tensorrt", "TensorRT")
    _package("cuda.bindings.runtime", "cuda-python")
    return Device(
        gpu=name.value.decode("utf-8", "replace"),
        compute_capability=f"{attribute(MAJOR)}.{attribute(MINOR)}",
        memory_bytes=memory.value,
        integrated=bool(attribute(INTEGRATED)),
        driver=_driver_version(cuda.value),
        tensorrt=str(trt.__version__),
        cuda_python=_cuda_python_version(),
    )


def _driver() -> Callable[..., None]:
    """A caller of the driver's functions by name that raises EngineError; the driver is initialised."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EngineError("no NVIDIA driver here (there is no libcuda.so.1), which TensorRT engines need") from None

    def call(name: str, *arguments: Any) -> None:
        code = getattr(library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            library.cuGetErrorString(code, ctypes.byref(text))
            reason = (text.value or b"unknown error").decode("utf-8", "replace")
            what = "no GPU here" if code == NO_DEVICE else f"the NVIDIA driver fails in {name}"
            raise EngineError(f"{what}: {reason} (CUDA error {code})")

    call("cuInit", 0)
    return call


def _driver_version(cuda: int) -> str:
    """As in "570.86.15, CUDA 12.8"; the first part only where the kernel module says it."""
    supports = f"CUDA {cuda // 1000}.{cuda % 1000 // 10}"
    try:
        return f"{Path('/sys/module/nvidia/version').read_text('ascii').strip()}, {supports}"
    except (OSError, ValueError):
        return supports


def _package(module: str, product: str) -> Any:
    try:
        return import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"{product} cannot be imported: {reason}: pip install 'agvas[tensorrt]'") from None


def _cuda_python_version() -> str:
    for distribution in ("cuda-bindings", "cuda-python"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"


def check(result: tuple[Any, ...], doing: str) -> Any:
    """What a call of cuda.bindings returned behind its error code. Raises EngineError beginning with `doing`."""
    code, *values = result
    if int(code):
        raise EngineError(f"{doing}: CUDA says {code.name}")
    return values[0] if len(values) == 1 else tuple(values)


def free_memory(integrated: bool) -> int:
    """Bytes of device memory that can be had now.

    A GPU that shares the machine's memory can also have what the kernel holds as cache, which CUDA does not count.
    """
    cuda = import_module("cuda.bindings.runtime")
    free, _ = check(cuda.cudaMemGetInfo(), "free device memory")
    if integrated:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return max(int(free), int(line.split()[1]) * 1024)
    return int(free)


class Buffer:
    """Device memory that only grows. `address` is an int, 0 before the first `reserve`."""

    def __init__(self, cuda: Any, what: str) -> None:
        self._cuda, self._what = cuda, what
        self.address = self.size = 0

    def reserve(self, size: int) -> bool:
        """Have at least this many bytes; True if that took another address. Nothing may be using the old one."""
        if self.address and size <= self.size:
            return False
        self.free()
        size = -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
        self.address = int(check(self._cuda.cudaMalloc(size), f"{self._what}: {size} bytes on the device"))
        self.size = size
        return True

    def free(self) -> None:
        """Give the memory back. Raises EngineError; a second call does nothing."""
        address, self.address, self.size = self.address, 0, 0
        if address:
            check(self._cuda.cudaFree(address), self._what)


@lru_cache(maxsize=1)
def log() -> Any:
    """The one `tensorrt.ILogger` of this process: it keeps errors and warnings and prints nothing.

    TensorRT keeps the first logger it is given for everything that belongs to no object; so there is only this one, and
    whoever works with TensorRT calls its `take()` afterwards: messages since the last time, errors first.
    """
    trt = import_module("tensorrt")
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=MESSAGES_KEPT)
            self.warnings: deque[str] = deque(maxlen=MESSAGES_KEPT)

        def log(self, severity: Any, msg: str) -> None:  # called from TensorRT's threads; must not raise
            if severity in errors:
                self.errors.append(" ".join(msg.split()))
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(" ".join(msg.split()))

        def take(self) -> tuple[list[str], list[str]]:
            errors, warnings = self.errors, self.warnings
            self.errors, self.warnings = deque(maxlen=MESSAGES_KEPT), deque(maxlen=MESSAGES_KEPT)
            return list(dict.fromkeys(errors)), list(dict.fromkeys(warnings))

    return Log()


def because(errors: list[str], otherwise: str = "it does not say why") -> str:
    """The first of TensorRT's messages as the end of a line; the later ones follow from it."""
    return errors[0][:400] if errors else otherwise


def call(doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of TensorRT's returns. Raises EngineError beginning with `doing` for what it raises.

    Its Python side raises RuntimeError, and TypeError where TensorRT itself gave nothing to make an object of.
    """
    try:
        return function(*arguments)
    except (RuntimeError, TypeError) as error:
        raise EngineError(f"{doing}: {because(log().take()[0], ' '.join(str(error).split())[:400])}") from None


def make(doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """As `call`, for functions that return None where they fail."""
    made = call(doing, function, *arguments)
    if made is None:
        raise EngineError(f"{doing}: {because(log().take()[0])}")
    return made


def start(kind: str) -> Any:
    """TensorRT's "Builder" or "Runtime", from which everything else comes. Raises EngineError."""
    trt = import_module("tensorrt")
    try:
        return make(f"TensorRT {trt.__version__} does not start", getattr(trt, kind), log())
    except EngineError as error:
        driver = probe().driver
        raise EngineError(f"{error}; is the driver ({driver}) new enough for TensorRT {trt.__version__}?") from None
