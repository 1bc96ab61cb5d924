"""The report of `agvas-bench serve` for people."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from agvas_runtime import console
from agvas_runtime.bench.load.outcome import Outcome, why_broken
from agvas_runtime.bench.load.step import DROPPED, EXPIRED, NO_ANSWER, OK, Load

LATE_SHARE = 0.1
"""Of the median latency: a generator that is later than this at its p99 is a part of what it measures."""
FEW = 100
"""Frames of which p99 is the slowest one, or nearly."""
PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")


def remarks(step: dict[str, Any], outcomes: Sequence[Sequence[Outcome]], load: Load) -> list[str]:
    """Lines on what makes a step's figures worth less: failures with their reasons, a late generator, few frames."""
    lines = []
    every = [each for camera in outcomes for each in camera]
    for status, count in step["statuses"].items():
        if status not in (OK, DROPPED, EXPIRED, NO_ANSWER):
            reason = next(each.reason for each in every if each.status == status)
            lines.append(f"{count} of {len(every)} frames are {status}: {reason}")
    late, latency = step["sent_late_ms"], step["latency_ms"]
    if late and latency and late["p99"] > LATE_SHARE * latency["p50"]:
        found = f"p99 {late['p99']:.2f} ms, where the median latency is {latency['p50']:.2f} ms"
        lines.append(f"warning: this generator itself sent late, {found}: the figures are not the server's alone")
    if load.target_p99_ms is not None and len(every) < FEW:
        lines.append(f"warning: p99 of {len(every)} frames is little more than their slowest: take more --seconds")
    return lines


def print_report(report: dict[str, Any], load: Load) -> None:
    """All steps, the cameras of the last one, what is carried, the machine."""
    output, machine, target = console.output(), report["machine"], report["target"]
    output.print(_steps(report))
    output.print(_cameras(report["steps"][-1]))
    if report["carried"] is not None:
        output.print(carried_line(report, load), highlight=False, markup=False, style="bold")
    frame = report["load"]["frame"]
    size = f"{frame['bytes_mean']:.0f} bytes, the largest {frame['height']} x {frame['width']}"
    sent = f"{target['address']}, {target['protocol']}, model {target['model']}; {frame['format']} frames of {size}"
    output.print(f"{sent}; {report['load']['arrivals']} arrivals", highlight=False, markup=False)
    cores = f"{machine['cores_usable']} cores, load {machine['load_average_1min']} before"
    output.print(f"the generator's machine: {machine['cpu']}, {cores}", highlight=False, markup=False)


def carried_line(report: dict[str, Any], load: Load) -> str:
    """What a ramp found, in one sentence."""
    carried, broken = report["carried"]["cameras"], report["carried"]["first_broken"]
    rates = dict.fromkeys(each["rate_hz"] for step in report["steps"] for each in step["per_camera"])
    kind = " and ".join(f"{rate:g}" for rate in rates) + " Hz"
    limits = [] if load.target_p99_ms is None else [f"at {load.target_p99_ms:g} ms p99"]
    limits += [] if load.max_miss_share is None else [f"with at most {load.max_miss_share:.1%} missed deadlines"]
    said = f"{carried or 'not even one'} {'camera' if carried < 2 else 'cameras'} of {kind} {' and '.join(limits)}"
    if broken is None:
        return f"carries {said}; more were not tried"
    step = next(each for each in report["steps"] if each["cameras"] == broken)
    return f"carries {said}; with {broken}: {why_broken(step, load)}"


def _steps(report: dict[str, Any]) -> Table:
    names = ("offered\nHz", "answered\nHz", *PERCENTILES, "overhead\np50", "\np99", "misses", "fair-\nness")
    title = (
        "of answered frames only: ms from the moment a frame was due to its answer; "
        "overhead: ms from sending it, the engine's time left out"
    )
    table = _table(title, ("cam-\neras",), names, ("kept", "no result"))
    for step in report["steps"]:
        overhead = step["overhead_ms"] or {}
        table.add_row(
            str(step["cameras"]),
            f"{step['offered_hz']:.1f}",
            f"{step['answered_hz']:.1f}",
            *(_ms(step["latency_ms"], name) for name in PERCENTILES),
            _ms(overhead, "p50"),
            _ms(overhead, "p99"),
            f"{step['miss_share']:.1%}",
            "-" if step["fairness"]["jain"] is None else f"{step['fairness']['jain']:.3f}",
            {True: "yes", False: "no", None: "-"}[step["held"]],
            _without_result(step["statuses"]),
        )
    return table


def _cameras(step: dict[str, Any]) -> Table:
    title = f"the last step's cameras ({step['cameras']}), ms of answered frames only"
    table = _table(title, ("camera",), ("Hz", "deadline", "frames", "p50", "p99", "max", "misses"), ("no result",))
    for each in step["per_camera"]:
        table.add_row(
            Text(each["name"]),
            f"{each['rate_hz']:g}",
            "-" if each["deadline_ms"] is None else f"{each['deadline_ms']:g}",
            str(each["sent"]),
            *(_ms(each["latency_ms"], name) for name in ("p50", "p99", "max")),
            str(each["misses"]),
            _without_result(each["statuses"]),
        )
    return table


def _ms(found: dict[str, float] | None, name: str) -> str:
    return "-" if not found else f"{found[name]:.1f}" if found[name] < 1000 else f"{found[name]:.0f}"


def _without_result(statuses: dict[str, int]) -> Text:
    return Text(", ".join(f"{count} {status}" for status, count in statuses.items() if status != OK))


def _table(title: str, names: Sequence[str], figures: Sequence[str], texts: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in figures:
        table.add_column(name, justify="right")
    for name in texts:
        table.add_column(name, overflow="fold")
    return table
