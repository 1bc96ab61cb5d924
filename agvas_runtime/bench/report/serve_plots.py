"""The plots of a report of `agvas-bench serve`; each is None where what it shows was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agvas_runtime.bench.report.distributions import Curve, curve, draw_distributions, draw_drift
from agvas_runtime.bench.report.style import (
    BAD,
    FAINT,
    INK,
    SERIES,
    Plot,
    label_right,
    log_if_wide,
    new_figure,
    tidy,
    to_png,
)
from agvas_runtime.bench.report.text import count, date, machine_line, ms, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = dict[str, Any]
SHADES = {"p50": "#7fb8de", "p90": "#2f87c1", "p99": "#0b4a7d"}


def small_print(report: Report) -> str:
    """Machine, date, commit, what was sent and how."""
    load, target = report["load"], report["target"]
    sent = count(sum(step["sent"] for step in report["steps"]), "frame")
    how = f"{sent}, {load['arrivals']} arrivals, {load['seconds']:g} s a step"
    to = f"{target['protocol']} protocol, {target['model']}"
    return " · ".join([machine_line(report["machine"]), date(report["began"]), how, to])


def steps_of(report: Report) -> list[dict[str, Any]]:
    """By their load."""
    return sorted(report["steps"], key=lambda step: (step["offered_hz"], step["cameras"]))


def load(report: Report) -> Plot | None:
    """Latency against the offered load, and below it the share of frames that came late or not at all."""
    steps, target = steps_of(report), report["load"]["target_p99_ms"]
    figure = new_figure(
        5.6,
        "Latency against load",
        "answered frames only, from when they were due; those without a result are among the misses",
    )
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    tidy(upper, "", "latency, ms", "both")
    tidy(lower, "offered, frames/s", "misses, %", "both")
    upper.set_xlim(0, 1.03 * max(step["offered_hz"] for step in steps))
    _draw_quantiles(upper, steps, target)
    _mark_broken((upper, lower), steps)
    _name_cameras(upper, steps)
    _draw_misses(lower, steps)
    told = "; ".join(
        f"{step['offered_hz']:,.0f} frames/s p99 {ms(step['latency_ms'] and step['latency_ms']['p99'])} ms, "
        f"{percent(step['miss_share'])} % missed"
        for step in steps
    )
    return Plot(
        to_png(figure, small_print(report)),
        f"Latency and misses against the offered load: {told}",
        "The load is offered whether answers come or not, so waiting counts. Red: the step broke its target. Below: "
        "the share of frames whose answer came after their camera's deadline, or never.",
    )


def _name_cameras(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    """How many cameras, above every step."""
    places = [(step["offered_hz"], f"{step['cameras']}", "center") for step in steps]
    for x, text, side in [*places, (axes.get_xlim()[1], "   cameras", "left")]:
        axes.annotate(text, xy=(x, 1), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
                      ha=side, fontsize=8, color=FAINT)  # fmt: skip


def _draw_quantiles(axes: Axes, steps: Sequence[dict[str, Any]], target: float | None) -> None:
    answered = [step for step in steps if step["latency_ms"]]
    values = [step["latency_ms"][name] for step in answered for name in SHADES]
    seen = [*values, *([target] if target else [])]
    if not log_if_wide(axes, "y", seen):
        axes.set_ylim(0, 1.12 * max(seen, default=1.0))
    for name, colour in SHADES.items():
        x, y = [step["offered_hz"] for step in answered], [step["latency_ms"][name] for step in answered]
        axes.plot(x, y, marker="o", markersize=4, color=colour, linewidth=1.8)
    ends, labels, colours = [], [], []
    if answered:
        last = answered[-1]
        ends = [(last["offered_hz"], last["latency_ms"][name]) for name in SHADES]
        labels, colours = list(SHADES), list(SHADES.values())
    if target:
        axes.axhline(target, color=INK, linewidth=1, linestyle="--")
        ends.append((axes.get_xlim()[1], target))
        labels.append(f"target p99 {target:g} ms")
        colours.append(INK)
    label_right(axes, ends, labels, colours, 3.0)


def _mark_broken(panels: Sequence[Axes], steps: Sequence[dict[str, Any]]) -> None:
    """A red ground from halfway to the step before to halfway to the one after; a cross where no answer came."""
    loads = [step["offered_hz"] for step in steps]
    edges = [0.0, *((a + b) / 2 for a, b in pairwise(loads)), panels[0].get_xlim()[1]]
    for place, step in enumerate(steps):
        if step["held"] is False:
            for axes in panels:
                axes.axvspan(edges[place], edges[place + 1], color=BAD, alpha=0.08, linewidth=0)
        if not step["latency_ms"]:
            panels[0].annotate(
                "no answer", xy=(loads[place], 0.2), xycoords=("data", "axes fraction"), rotation=90, ha="center",
                va="center", fontsize=8.5, color=BAD,
            )  # fmt: skip


def _draw_misses(axes: Axes, steps: Sequence[dict[str, Any]]) -> None:
    known = [(step["offered_hz"], 100 * step["miss_share"]) for step in steps if step["miss_share"] is not None]
    highest = max((share for _, share in known), default=0.0)
    axes.set_ylim(0, 1.45 * highest or 1.0)
    axes.vlines([x for x, _ in known], 0, [share for _, share in known], color=SERIES[1], linewidth=2)
    axes.plot([x for x, _ in known], [share for _, share in known], "o", color=SERIES[1], markersize=4.5, clip_on=False)
    for x, share in known:
        axes.annotate(percent(share / 100), xy=(x, share), xytext=(0, 4), textcoords="offset points", ha="center",
                      fontsize=7.5, color=INK)  # fmt: skip


def step_curves(report: Report) -> list[Curve]:
    """The latencies of every step that has any, from light to dark with the load."""
    steps = steps_of(report)
    found = [
        curve(
            f"{count(step['cameras'], 'camera')}, {step['offered_hz']:,.0f}/s",
            step["samples"]["latency_ms"],
            _shade(place, len(steps)),
            at=step["samples"]["due_s"],
        )
        for place, step in enumerate(steps)
    ]
    return [each for each in found if len(each.values)]


def _shade(place: int, steps: int) -> str:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["viridis_r"](0.15 + 0.85 * place / max(1, steps - 1)))


def distributions(report: Report) -> Plot | None:
    """Of the latencies of every step."""
    curves = step_curves(report)
    if not curves or max(len(each.values) for each in curves) < 2:
        return None
    return Plot(
        draw_distributions(curves, "How long an answer takes", "latency, ms", small_print(report)),
        f"Distribution of the latencies, a curve for each of {count(len(curves), 'step')}",
        "Answers only; frames without one are among the misses. Darker curves are heavier loads. The scale upwards "
        "stretches the tail: from line to line a tenth of the answers is left. The dot is the slowest answer.",
    )


def over_time(report: Report) -> Plot | None:
    """The latencies within every step."""
    curves = step_curves(report)
    if not curves:
        return None
    strips = [each._replace(name=f"{each.name}, ms") for each in curves]
    subtitle = "one dot a frame; the line is the running median"
    return Plot(
        draw_drift(strips, "Within a step", subtitle, "due at, seconds from the step's begin", small_print(report)),
        "Latencies of the frames of every step, in the order they were due",
        "A line that climbs to the step's end is a queue that grows: a longer step would have been worse. "
        "Triangles lie above their strip. Each strip has its own scale.",
    )


def overhead(report: Report) -> Plot | None:
    """The engine's time and all else, apart, against the load."""
    steps = [step for step in steps_of(report) if step["engine_ms"] and step["overhead_ms"]]
    if not steps:
        return None
    figure = new_figure(4.2, "Engine and overhead", "overhead: from really sent to answered, without the engine's time")
    axes = figure.add_subplot()
    tidy(axes, "offered, frames/s", "ms", "both")
    axes.set_xlim(0, 1.03 * max(step["offered_hz"] for step in steps))
    lines = [(part, name) for part in ("engine_ms", "overhead_ms") for name in ("p50", "p99")]
    values = [step[part][name] for step in steps for part, name in lines]
    if not log_if_wide(axes, "y", values):
        axes.set_ylim(min(0.0, *values), 1.1 * max(values) or 1.0)
    colours = [SERIES[2] if part == "engine_ms" else SERIES[1] for part, _ in lines]
    for (part, name), colour in zip(lines, colours, strict=True):
        axes.plot([step["offered_hz"] for step in steps], [step[part][name] for step in steps],
                  "-" if name == "p50" else "--", marker="o", markersize=4, color=colour, linewidth=1.6)  # fmt: skip
    ends = [(steps[-1]["offered_hz"], steps[-1][part][name]) for part, name in lines]
    label_right(axes, ends, [f"{part.removesuffix('_ms')} {name}" for part, name in lines], colours, 3.0)
    return Plot(
        to_png(figure, small_print(report)),
        "Engine time and overhead of the server against the load, p50 and p99",
        "Waiting for the engine is part of the overhead, so it climbs with the load; at the lightest load it is what "
        "the server and the wire themselves take.",
    )


SERVE_PLOTS: dict[str, Callable[[Report], Plot | None]] = {
    "load": load,
    "distributions": distributions,
    "over-time": over_time,
    "overhead": overhead,
}
