"""What is not the same in two reports besides their figures: a change may come from there."""

from __future__ import annotations

from typing import Any

MACHINE = (
    *("cpu", "cores_usable", "cores_limit", "memory_bytes", "memory_limit_bytes", "gpus", "gpu_driver"),
    *("system", "python", "agvas", "commit"),
)
MEASURED = {"engine": ("threads", "images", "frame_bytes_mean"), "serve": ("load",)}
OF_TARGET = ("protocol", "model", "model_sha256")
OF_CONTENDER = ("engine", "model_sha256", "mode", "instruction")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for everything that differs: `machine.cpu: found B, before A`."""
    pairs = [(f"machine.{name}", old["machine"].get(name), new["machine"].get(name)) for name in MACHINE]
    before, after = old["machine"].get("packages", {}), new["machine"].get("packages", {})
    pairs += [(name, before.get(name), after.get(name)) for name in sorted({*before, *after})]
    pairs += [(name, old.get(name), new.get(name)) for name in MEASURED[old["kind"]]]
    if old["kind"] == "engine":
        later = {each["name"]: each for each in new["contenders"]}
        for each in old["contenders"]:
            same = later.get(each["name"])
            pairs += [(f"{each['name']}.{name}", each.get(name), same.get(name)) for name in OF_CONTENDER if same]
    else:
        pairs += [(f"target.{name}", old["target"].get(name), new["target"].get(name)) for name in OF_TARGET]
    return [
        f"{name}: {_said(found)}, before {_said(was)}" for name, was, found in pairs if (was or None) != (found or None)
    ]


def _said(value: Any) -> str:
    return str(value or "nothing")
