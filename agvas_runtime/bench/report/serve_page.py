"""The page's section of a report of `agvas-bench serve`."""

from collections.abc import Mapping
from typing import Any

from agvas_runtime.bench.report.html import (
    FIGURES,
    Cell,
    Number,
    facts_list,
    figure,
    figure_cells,
    foldable,
    heading,
    milliseconds,
    paragraph,
    plain,
    table,
)
from agvas_runtime.bench.report.serve_plots import steps_of
from agvas_runtime.bench.report.style import Plot
from agvas_runtime.bench.report.text import NOT_KNOWN, count, counts, date, machine_facts, percent

Report = dict[str, Any]
HELD = {True: "kept", False: "broken", None: ""}


def serve_section(report: Report, plots: Mapping[str, Plot | None]) -> str:
    """All of it, what was not measured left out."""
    return "".join(
        (
            facts_list(_facts(report)),
            _carried(report),
            figure(plots["load"]),
            _steps(report),
            heading("Latency"),
            figure(plots["distributions"]),
            _latencies(report),
            figure(plots["over-time"]),
            heading("Engine, overhead, generator"),
            figure(plots["overhead"]),
            _apart(report),
            heading("Cameras"),
            *(foldable(step_name(step), _cameras(step)) for step in steps_of(report)),
        )
    )


def step_name(step: dict[str, Any]) -> str:
    """`4 cameras, 40 frames/s`."""
    return f"{count(step['cameras'], 'camera')}, {step['offered_hz']:,g} frames/s"


def _facts(report: Report) -> dict[str, str]:
    target, load = report["target"], report["load"]
    frame = load["frame"]
    size = NOT_KNOWN if frame["bytes_mean"] is None else f"{frame['bytes_mean']:,.0f}"
    return {
        "measured": f"{date(report['began'])}, {load['seconds']:g} s a step",
        "target": f"{target['address']}, protocol {target['protocol']}",
        "model": f"{target['model']}, SHA-256 {target['model_sha256'] or 'not told'}",
        "load": f"open loop, {load['arrivals']} arrivals, seed {load['seed']}",
        "frames": f"{frame['format']}, {frame['width']} x {frame['height']}, {size} bytes on average",
        "target to keep": _goal(load),
        **machine_facts(report["machine"]),
    }


def _goal(load: dict[str, Any]) -> str:
    p99_ms, misses = load["target_p99_ms"], load.get("max_miss_share")
    goals = [] if p99_ms is None else [f"p99 at most {p99_ms:g} ms"]
    if misses is not None:
        goals.append(f"misses at most {percent(misses)} %")
    return ", ".join(goals) or "none"


def _carried(report: Report) -> str:
    carried = report["carried"]
    if carried is None:
        return ""
    if carried["cameras"] == 0:
        return paragraph("No step kept the target.", "bad")
    broken = carried["first_broken"]
    after = "no step broke it" if broken is None else f"the first to break it had {count(broken, 'camera')}"
    return paragraph(f"Up to {count(carried['cameras'], 'camera')} kept the target; {after}.")


def _steps(report: Report) -> str:
    rows: list[list[Cell]] = []
    for step in steps_of(report):
        fairness = step["fairness"]
        rows.append([
            plain(step["cameras"]),
            plain(step["offered_hz"], 1),
            plain(step["answered_hz"], 1),
            plain(step["sent"]),
            counts(step["statuses"]),
            plain(step["misses"]),
            Number(step["miss_share"], percent(step["miss_share"])),
            HELD[step["held"]],
            plain(fairness["jain"], 3),
            milliseconds(fairness["best_p99_ms"]),
            milliseconds(fairness["worst_p99_ms"]),
        ])  # fmt: skip
    heads = ("cameras", "offered/s", "answered/s", "sent", "statuses", "misses", "misses, %", "target", "fairness",
             "best p99, ms", "worst p99, ms")  # fmt: skip
    caption = (
        "A miss is an answer later than its camera's deadline, or none. Fairness is Jain's index of the cameras' "
        "shares of frames answered in time, 1 where all fare alike; best and worst are the cameras'."
    )
    return table(caption, heads, rows)


def _latencies(report: Report) -> str:
    rows: list[list[Cell]] = [
        [plain(step["cameras"]), plain(step["offered_hz"], 1), *figure_cells(step["latency_ms"])]
        for step in steps_of(report)
    ]
    return table("From when a frame was due to its answer, answers only, ms", ("cameras", "offered/s", *FIGURES), rows)


def _apart(report: Report) -> str:
    rows: list[list[Cell]] = []
    for step in steps_of(report):
        for name, what in (("engine_ms", "engine"), ("overhead_ms", "overhead"), ("sent_late_ms", "generator late")):
            if step[name]:
                rows.append([plain(step["cameras"]), what, *figure_cells(step[name])])
    caption = (
        "ms. Overhead: from really sent to answered, without the engine's time. Generator late: how long after it was "
        "due a frame was sent; where that nears the latencies, the generator was the bottleneck and not the server."
    )
    return table(caption, ("cameras", "what", *FIGURES), rows)


def _cameras(step: dict[str, Any]) -> str:
    rows: list[list[Cell]] = [
        [each["name"], plain(each["rate_hz"], 1), milliseconds(each["deadline_ms"]), plain(each["sent"]),
         counts(each["statuses"]), plain(each["misses"]), *figure_cells(each["latency_ms"])]
        for each in step["per_camera"]
    ]  # fmt: skip
    return table("latency in ms", ("camera", "frames/s", "deadline, ms", "sent", "statuses", "misses", *FIGURES), rows)
