"""How figures and names are written, in the plots and on the page alike."""

from collections.abc import Sequence
from typing import Any

from agvas_runtime.console import one_line

NOT_KNOWN = "n/a"


def ms(value: float | None) -> str:
    """Milliseconds, without their unit: 0.042, 4.92, 492.1, 12,345; `n/a` where not known."""
    if value is None:
        return NOT_KNOWN
    size = abs(value)
    return f"{value:,.{3 if 0 < size < 0.1 else 2 if size < 100 else 1 if size < 1000 else 0}f}"


def mib(value: float | None) -> str:
    """Bytes as MiB, without the unit."""
    return NOT_KNOWN if value is None else f"{value / 2**20:,.0f}"


def percent(share: float | None) -> str:
    """A share as percent, without the sign: 0, 0.03, 1.2, 100."""
    if share is None:
        return NOT_KNOWN
    return f"{100 * share:.2f}" if 0 < share < 0.01 else f"{100 * share:.1f}".removesuffix(".0")


def ratio(times: dict[str, Any]) -> str:
    """A ratio with its interval."""
    if times["median"] is None:
        return NOT_KNOWN
    between = f" ({times['low']:.2f} to {times['high']:.2f})" if None not in (times["low"], times["high"]) else ""
    return f"{times['median']:.2f}{between}"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things: `1 frame`, `1,000 frames`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def counts(found: dict[str, int]) -> str:
    """How many there were of each: `396 OK, 4 DROPPED`."""
    return ", ".join(f"{number:,} {name}" for name, number in found.items())


def date(began: str) -> str:
    """`2026-11-26T10:00:00Z` as `2026-11-26 10:00:00 UTC`; another text as it is."""
    return f"{began[:-1].replace('T', ' ')} UTC" if began.endswith("Z") else began


def machine_line(machine: dict[str, Any]) -> str:
    """Processor and cores with a container's limit, GPUs, agvas and its commit."""
    cores, limit = machine.get("cores_usable"), machine.get("cores_limit")
    parts = [
        str(machine.get("cpu") or "unknown processor"),
        *([count(cores, "core") + (f", limited to {limit:g}" if limit else "")] if isinstance(cores, int) else []),
        *_gpus(machine),
        f"agvas {machine.get('agvas', '?')}, commit {machine.get('commit') or 'unknown'}",
    ]
    return " · ".join(parts)


def _gpus(machine: dict[str, Any]) -> list[str]:
    """As in `2 x NVIDIA L4`, each kind once."""
    names = machine.get("gpus") or []
    return [name if names.count(name) == 1 else f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def short_names(names: Sequence[str], limit: int = 30) -> list[str]:
    """The names as plots show them: one line, the middle of a long one left out; still apart from each other."""
    lines = [one_line(name) or "?" for name in names]
    half = (limit - 1) // 2
    short = [line if len(line) <= limit else f"{line[:half]}…{line[-half:]}" for line in lines]
    return [f"{place + 1}: {name}" if short.count(name) > 1 else name for place, name in enumerate(short)]


def machine_facts(machine: dict[str, Any]) -> dict[str, str]:
    """What is known of a machine, in words."""
    cores = f"{machine.get('cores_usable')} usable cores, {machine.get('cores_physical')} physical"
    memory, limits = machine.get("memory_bytes"), (machine.get("cores_limit"), machine.get("memory_limit_bytes"))
    size = f"{memory / 2**30:.1f} GiB memory" if isinstance(memory, int | float) else ""
    limited = [f"{limits[0]:g} cores"] if limits[0] else []
    limited += [f"{limits[1] / 2**30:.1f} GiB memory"] if limits[1] else []
    packages = machine.get("packages") or {}
    versions = [f"agvas {machine.get('agvas')}", f"Python {machine.get('python')}"]
    driver = [f"driver {machine['gpu_driver']}"] if machine.get("gpu_driver") else []
    shown = {"cpu", "cores_usable", "cores_physical", "memory_bytes", "packages", "agvas", "python", "commit",
             "architecture", "system", "load_average_1min", "cores_limit", "memory_limit_bytes", "gpus",
             "gpu_driver"}  # fmt: skip
    facts = {
        "machine": ", ".join(filter(None, (str(machine.get("cpu")), str(machine.get("architecture")), cores, size))),
        "container's limits": ", ".join(limited) or "None",
        "GPU": ", ".join([*_gpus(machine), *driver]) or "None",
        "system": str(machine.get("system")),
        "load before": str(machine.get("load_average_1min")),
        "versions": ", ".join([*versions, *(f"{name} {found}" for name, found in packages.items())]),
        "commit": str(machine.get("commit")),
    }
    others = {name.replace("_", " "): str(found) for name, found in machine.items() if name not in shown}
    return {name: fact for name, fact in {**facts, **others}.items() if fact != "None"}
