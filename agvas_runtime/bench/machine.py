"""What a measurement was taken on: the machine, the versions, the commit."""

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from agvas_runtime import __version__
from agvas_runtime.control_group import container_limits
from agvas_runtime.cpu import usable_cores
from agvas_runtime.nvml import driver_version, gpus, open_library

PACKAGES = ("numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs, load and the versions of all that takes part; absent packages are left out.

    `cores_limit` and `memory_limit_bytes` are those of the container, or None; `gpus` are those that NVML shows.
    """
    limits, library = container_limits(), open_library()
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_usable": usable_cores(),
        "cores_limit": limits.cores,
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": limits.memory_bytes,
        "gpus": [gpu.name for gpu in gpus(library)],
        "gpu_driver": driver_version(library),
        "load_average_1min": round(psutil.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "agvas": __version__,
        "commit": git_commit(Path(__file__).parent),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def git_commit(folder: Path) -> str | None:
    """The commit that the folder's files are checked out from, marked "+" if they differ; None outside git.

    Outside is also a folder that a repository lies around without having files in it: of an environment, for example.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")
        return _git(folder, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _cpu_model() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        info = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
