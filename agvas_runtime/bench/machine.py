"""What a measurement was taken on: the machine, the versions, the commit."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from agvas_runtime import __version__

PACKAGES = ("numpy", "pillow", "tokenizers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "torch")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, load and the versions of all that takes part; absent packages are left out."""
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_usable": _usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average_1min": round(psutil.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "agvas": __version__,
        "commit": git_commit(Path(__file__).parent),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def git_commit(folder: Path) -> str | None:
    """The commit that the folder's files are checked out from, marked "+" if they differ; None outside git."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _cpu_model() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        info = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
