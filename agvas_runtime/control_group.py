"""What a container, or a service's control group, lets this process have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NO_LIMIT_BYTES = 1 << 60
"""From here on a limit of memory is none: version 1 says so with a large number."""


@dataclass(frozen=True)
class Limits:
    """None where there is no limit."""

    cores: float | None = None
    """CPU time a second, in seconds."""
    memory_bytes: int | None = None


def container_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limits:
    """The tightest limits of this process's control group and of those above it; versions 2 and 1."""
    names = dict(line.split(":", 2)[1:] for line in read_text(own).splitlines() if line.count(":") >= 2)
    cores: list[float] = []
    sizes: list[int] = []
    for controller in ("cpu", "memory"):
        old = next((name for name in names if controller in name.split(",")), None)
        base = root if old is None else root / controller
        inside = Path(names.get(old or "", "/").lstrip("/"))
        for folder in (base / part for part in (inside, *inside.parents)):
            if controller == "cpu":
                cores += _cores_of(folder)
            else:
                sizes += _bytes_of(folder)
    return Limits(min(cores, default=None), min(sizes, default=None))


def read_text(path: Path) -> str:
    """What the kernel says in a file; nothing where there is none."""
    try:
        return path.read_text("ascii", errors="replace").strip()
    except OSError:
        return ""


def _cores_of(folder: Path) -> list[float]:
    quota, period = [*read_text(folder / "cpu.max").split(), "", ""][:2]
    quota, period = quota or read_text(folder / "cpu.cfs_quota_us"), period or read_text(folder / "cpu.cfs_period_us")
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() else []


def _bytes_of(folder: Path) -> list[int]:
    text = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
    return [int(text)] if text.isdigit() and int(text) < NO_LIMIT_BYTES else []
