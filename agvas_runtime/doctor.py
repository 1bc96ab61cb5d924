"""`agvas-runtime doctor`: whether this machine can serve as configured. Here is what belongs to the machine.

What belongs to the configuration (ports, bundle, recipes, TLS, access) is in `server/checks.py`. Nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

import psutil

from agvas_runtime import __version__
from agvas_runtime.control_group import container_limits
from agvas_runtime.cpu import X86, clips_eight_bit_sums, cpu_flags, usable_cores
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server import checks
from agvas_runtime.server.channel import MEBIBYTE
from agvas_runtime.server.checks import Check, State
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.gpu_memory import gpu_memory

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Of a CPU, what makes graphs faster."""
OWN_FILES = 100
"""Open files of the server beside its connections."""
OWN_MEMORY_MB = 1024
"""Rough memory of server and engine beside the frames, with the embedded bundle."""
TIME_ERROR = 5
"""What ntp_adjtime returns where nothing keeps the clock right."""


def examine(load: Callable[[], ServerConfig]) -> list[Check]:
    """Look at everything. Where the configuration itself is wrong, what depends on it is left out."""
    found = [check for look in (python, packages, memfd, clock) for check in _safely(look.__name__, look)]
    try:
        config = load()
    except InputError as error:
        return [*found, Check("configuration", "problem", str(error), "see agvas-runtime serve --print-config")]
    found.append(Check("configuration", "ok", "can be used"))
    looks = (onnxruntime, gpu, tensorrt, cpu, memory, open_files, *checks.ALL)
    for look in looks:
        found += _safely(look.__name__.replace("_", " "), look, config)
    return found


def _safely(name: str, look: Callable[..., Iterable[Check]], *arguments: object) -> list[Check]:
    """A check's findings; one that fails itself is a problem and stops no other."""
    try:
        return list(look(*arguments))
    except (InputError, EngineError) as error:
        return [Check(name, "problem", str(error))]
    except Exception as error:
        return [Check(name, "problem", f"this check failed: {type(error).__name__}: {error}")]


def python() -> Iterator[Check]:
    """The interpreter."""
    state: State = "ok" if sys.version_info >= (3, 10) else "problem"
    yield Check("python", state, f"{platform.python_version()}, {platform.platform()}", "agvas needs Python 3.10")


def packages() -> Iterator[Check]:
    """What the runtime needs."""
    needed = [
        re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requires("agvas") or () if "extra ==" not in line
    ]
    missing = [name for name in needed if _version(name) is None]
    listed = ", ".join(f"{name} {_version(name)}" for name in needed if name not in missing)
    yield Check("packages", "ok", f"agvas {__version__}, {listed}")
    if missing:
        yield Check("packages", "problem", f"missing: {', '.join(missing)}", "install agvas again: pip install agvas")


def onnxruntime(config: ServerConfig) -> Iterator[Check]:
    """ONNX Runtime and its providers."""
    names = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if not names:
        yield Check("onnxruntime", "problem", "not installed", "pip install 'agvas[cpu]', or 'agvas[gpu]'")
        return
    providers = import_module("onnxruntime").get_available_providers()
    text = f"{' and '.join(f'{name} {_version(name)}' for name in names)}: {', '.join(providers)}"
    if len(names) > 1:
        advice = "each overwrites the other's files: uninstall both, then install one"
        yield Check("onnxruntime", "warning", text, advice)
    elif config.engine == "ort-cuda" and "CUDAExecutionProvider" not in providers:
        yield Check("onnxruntime", "problem", text, "engine ort-cuda needs agvas[gpu] in place of agvas[cpu]")
    else:
        yield Check("onnxruntime", "ok", text)


def gpu(config: ServerConfig) -> Iterator[Check]:
    """NVIDIA's driver and GPUs."""
    found = gpu_memory()
    if found:
        described = (
            f"{one.name} with {one.total_bytes / 2**30:.0f} GiB, {one.used_bytes / 2**30:.1f} in use" for one in found
        )
        yield Check("gpu", "ok", "; ".join(described))
    elif config.engine in ("ort-cuda", "tensorrt"):
        advice = "install the driver; in a container pass the GPU on (docker run --gpus all, nvidia.com/gpu)"
        yield Check("gpu", "problem", f"none, and engine {config.engine} needs one", advice)
    else:
        yield Check("gpu", "ok", "none; the CPU is used")


def tensorrt(config: ServerConfig) -> Iterator[Check]:
    """TensorRT, the GPU that it would use, and the driver."""
    from agvas_runtime.engines.device import probe

    try:
        device = probe()
    except EngineError as error:
        if config.engine == "tensorrt":
            yield Check("tensorrt", "problem", str(error), "engine tensorrt needs it; see docs/tensorrt.md")
        else:
            yield Check("tensorrt", "ok", f"not here, and not asked for: {error}")
        return
    yield Check(
        "tensorrt",
        "ok",
        f"{device.tensorrt}, cuda-python {device.cuda_python}, driver {device.driver}, "
        f"{device.gpu} (compute capability {device.compute_capability})",
    )


def cpu(config: ServerConfig) -> Iterator[Check]:
    """Cores, what limits them, and instructions."""
    usable = usable_cores()
    limit = container_limits().cores
    flags = [flag for flag in FLAGS if flag in cpu_flags()]
    text = f"{usable} cores{'' if limit is None else f', limited to {limit:g}'}; {', '.join(flags) or 'no flags known'}"
    cores = usable if limit is None else min(usable, limit)
    if (config.threads or usable) > max(1, -(-cores // 1)):
        threads = f"threads {config.threads}" if config.threads else f"an engine takes {usable} threads"
        yield Check("cpu", "warning", f"{text}; {threads}", f"set threads to {max(1, int(cores))}")
    elif platform.machine() in X86 and "avx2" not in flags:
        yield Check("cpu", "warning", text, "without AVX2 graphs are several times slower")
    elif clips_eight_bit_sums():
        yield Check("cpu", "warning", text, "without VNNI graphs of 8 bits take a slower, exact way")
    else:
        yield Check("cpu", "ok", text)


def memory(config: ServerConfig) -> Iterator[Check]:
    """Memory for the frames beside server and engines."""
    limit, machine = container_limits().memory_bytes, psutil.virtual_memory()
    have_mb = min(machine.available, limit or machine.available) // MEBIBYTE
    text = f"{machine.available // MEBIBYTE} MiB available of {machine.total // MEBIBYTE}"
    text += "" if limit is None else f", limited to {limit // MEBIBYTE}"
    if config.max_memory_mb + OWN_MEMORY_MB > have_mb:
        text = f"{text}; frames may take {config.max_memory_mb}"
        yield Check("memory", "warning", text, "set max_memory_mb lower, or give the server more memory")
    else:
        yield Check("memory", "ok", text)


def open_files(config: ServerConfig) -> Iterator[Check]:
    """Room for a connection of every stream and call."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = config.max_streams + config.max_waiting + OWN_FILES
    enough = soft == resource.RLIM_INFINITY or soft >= needed
    text = f"{'any number' if soft == resource.RLIM_INFINITY else soft}, {needed} needed"
    yield Check("open files", "ok" if enough else "problem", text, f"ulimit -n {needed}, LimitNOFILE= of systemd")


def memfd() -> Iterator[Check]:
    """Shared memory without a file, for the frames."""
    try:
        handle = os.memfd_create("agvas-doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(handle, MEBIBYTE)
        finally:
            os.close(handle)
    except (AttributeError, OSError) as error:
        yield Check("shared memory", "problem", f"memfd_create fails: {error}", "let the sandbox allow memfd_create")
        return
    yield Check("shared memory", "ok", "memfd_create works")


def clock() -> Iterator[Check]:
    """Whether something keeps the clock right: capture times and certificates depend on it."""
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024))  # struct timex, modes 0: only asks
    except (OSError, AttributeError):
        state = -1
    if state == TIME_ERROR:
        yield Check("clock", "warning", f"{text}, not synchronised", "run an NTP or PTP client")
    else:
        yield Check("clock", "ok", text if state < 0 else f"{text}, synchronised")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
