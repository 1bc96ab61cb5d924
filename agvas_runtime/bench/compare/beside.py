"""What a report has one value of: nothing is known of its noise, so both values stand beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agvas_runtime.bench.compare.series import load_name

OF_ALONE = ("load_ms", "first_call_ms", "build_ms", "rss_loaded_bytes", "rss_peak_bytes")
OF_DEVICE, OF_ENERGY = ("peak_bytes",), ("joules_per_frame",)
OF_QUALITY, OF_DATA = ("iou_mean", "iou_min", "same_verdicts"), ("ap", "f1_max", "iou_ano", "iou_nor")
OF_CALL = ("p50", "p99")
OF_LOAD = ("miss_share", "answered_hz")


class Beside(NamedTuple):
    """A figure in both reports; None where one does not have it."""

    of: str
    what: str
    old: float | None
    new: float | None


def beside(old: dict[str, Any], new: dict[str, Any]) -> list[Beside]:
    """All such figures of contenders, or loads, that both reports have."""
    before, after = (dict(_values(report)) for report in (old, new))
    return [
        Beside(*key, before[key], after[key]) for key in before if key in after and {before[key], after[key]} != {None}
    ]


def _values(report: dict[str, Any]) -> Iterator[tuple[tuple[str, str], float | None]]:
    if report["kind"] == "engine":
        for each in report["contenders"]:
            alone = each["alone"] or {}
            parts = (
                (alone, OF_ALONE),
                (alone.get("device") or {}, OF_DEVICE),
                (alone.get("energy") or {}, OF_ENERGY),
                (each["quality"] or {}, OF_QUALITY),
                (each["data"] or {}, OF_DATA),
            )
            for part, names in parts:
                yield from (((each["name"], name), part.get(name)) for name in names)
            for share in OF_CALL:
                yield (each["name"], f"call, {share}, ms"), each["stages_ms"]["call"][share]
            for batch in each["throughput"]:
                yield (each["name"], f"frames/s by {batch['batch']}"), batch["frames_per_s"]
        return
    for step in report["steps"]:
        yield from (((load_name(step), name), step[name]) for name in OF_LOAD)
        yield (load_name(step), "p99 of answers, ms"), (step["latency_ms"] or {}).get("p99")
    yield ("ramp", "cameras carried"), (report["carried"] or {}).get("cameras")
