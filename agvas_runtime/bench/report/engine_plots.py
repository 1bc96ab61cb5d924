"""The plots of a report of `agvas-bench engine`; each is None where what it shows was not measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from agvas_runtime.bench.report.distributions import Curve, curve, draw_distributions, draw_drift
from agvas_runtime.bench.report.style import (
    FAINT,
    PARTS,
    REST,
    Plot,
    after_bar,
    colour_of,
    darker,
    dash_of,
    literal,
    new_figure,
    text_on,
    tidy,
    to_png,
)
from agvas_runtime.bench.report.text import count, date, machine_line, ms, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMS = ("call", "total")
"""No stages: the whole call, and the engine's own sum of its stages."""
Report = dict[str, Any]


def small_print(report: Report) -> str:
    """Machine, date, commit, how much was measured; and what has to be said of the weights."""
    frames = f"{count(report['frames'], 'frame')} a contender after {report['warmup']:,} to warm up"
    return " · ".join([machine_line(report["machine"]), date(report["began"]), frames, *_weights(report)])


def _weights(report: Report) -> list[str]:
    """What has to be said of weights, and of whose where it does not hold for all."""
    notes: dict[str, list[str]] = {}
    for name, each in zip(names_of(report), report["contenders"], strict=True):
        notes.setdefault(each["weights"], []).append(name)
    return [f"{note} ({', '.join(names)})" if len(notes) > 1 else note for note, names in notes.items() if note]


def names_of(report: Report) -> list[str]:
    """The contenders' names as plots show them."""
    return short_names([each["name"] for each in report["contenders"]])


def call_curves(report: Report) -> list[Curve]:
    """Every contender's whole calls."""
    found = [
        curve(name, each["samples"]["times_ms"]["call"], colour_of(place), dash_of(place))
        for place, (name, each) in enumerate(zip(names_of(report), report["contenders"], strict=True))
    ]
    return [each for each in found if len(each.values)]


def distributions(report: Report) -> Plot | None:
    """Of the whole call."""
    curves = call_curves(report)
    if not curves or max(len(each.values) for each in curves) < 2:
        return None
    png = draw_distributions(curves, "How long a call takes", "whole call, ms", small_print(report))
    first = curves[0]
    p50, p99 = np.percentile(first.values, [50, 99]).tolist()
    medians = "; ".join(f"{each.name} median {ms(float(np.median(each.values)))} ms" for each in curves)
    return Plot(
        png,
        f"Distribution of the whole call: {medians}",
        f"Of the calls of {first.name}, half took at most {ms(p50)} ms and one in a hundred more than {ms(p99)} ms. "
        "The scale upwards stretches the tail: from line to line a tenth of the calls is left. The dot is the slowest.",
    )


def drift(report: Report) -> Plot | None:
    """The whole calls turn by turn, and the yardstick below them."""
    curves = call_curves(report)
    if not curves or max(len(each.values) for each in curves) < 2:
        return None
    strips = [each._replace(name=f"{each.name}, ms") for each in curves]
    yardstick = curve("yardstick: a fixed piece of work, ms", report["yardstick_ms"], FAINT)
    if len(yardstick.values):
        strips.append(yardstick)
    subtitle = "one dot a call; the line is the running median"
    png = draw_drift(strips, "Call by call", subtitle, "turn", small_print(report))
    return Plot(
        png,
        "The whole call of every turn, a strip for each contender and one for the yardstick",
        "All took turns. A line that climbs or steps is a drift; where the yardstick moves with it, the machine "
        "changed, not the contender. Triangles are calls that lie above their strip. Each strip has its own scale.",
    )


def stage_names(report: Report) -> list[str]:
    """Every stage once, in the order they run."""
    seen = dict.fromkeys(stage for each in report["contenders"] for stage in each["stages_ms"])
    return [stage for stage in seen if stage not in SUMS]


def parts_of(contender: dict[str, Any]) -> dict[str, float]:
    """Stages' medians in ms, and what is left of the call's as `rest`."""
    parts = {stage: values["p50"] for stage, values in contender["stages_ms"].items() if stage not in SUMS}
    return {**parts, "rest": max(0.0, contender["stages_ms"]["call"]["p50"] - sum(parts.values()))}


def stage_colours(report: Report) -> dict[str, str]:
    """A colour for every stage; grey for the rest."""
    return {**{stage: PARTS[n % len(PARTS)] for n, stage in enumerate(stage_names(report))}, "rest": REST}


def stages(report: Report) -> Plot | None:
    """Bars end to end, all contenders on one scale."""
    contenders, names, colours = report["contenders"], names_of(report), stage_colours(report)
    figure = new_figure(1.75 + 0.5 * len(names), "Where the time goes", "medians of the stages, end to end")
    axes = figure.add_subplot()
    tidy(axes, "ms a frame")
    longest = max(max(sum(parts_of(each).values()), each["stages_ms"]["call"]["p50"]) for each in contenders)
    for row, each in enumerate(contenders):
        left = 0.0
        for stage, width in parts_of(each).items():
            axes.barh(row, width, 0.62, left, color=colours[stage], edgecolor="white", linewidth=0.6)
            if width > 0.055 * longest:
                axes.text(left + width / 2, row, ms(width), ha="center", va="center", fontsize=7.5,
                          color=text_on(colours[stage]))  # fmt: skip
            left += width
        after_bar(axes, left, row, _total(report, each))
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.01)
    handles = [_patch(colour, stage) for stage, colour in colours.items()]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(len(handles), 9), fontsize=8,
        frameon=False, handlelength=1, handleheight=1, columnspacing=1.2, handletextpad=0.4, borderaxespad=0.2,
    )  # fmt: skip
    whole = "; ".join(
        f"{name} {ms(each['stages_ms']['call']['p50'])} ms" for name, each in zip(names, contenders, strict=True)
    )
    return Plot(
        to_png(figure, small_print(report)),
        f"Stages of every contender as bars end to end; whole call: {whole}",
        "One scale for all. Medians of stages need not add up to the call's median; what is missing is the rest. "
        "Behind the bars: the call's median, and how many times as long as the base's it is.",
    )


def _total(report: Report, each: dict[str, Any]) -> str:
    text = f"{ms(each['stages_ms']['call']['p50'])} ms"
    times = each["groups"].get("all", {}).get("times_of_base", {}).get("call", {}).get("median")
    return text if times is None or each["name"] == report["base"] else f"{text} · {times:.2f} ×"


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=literal(label))


def waterfall(report: Report) -> Plot | None:
    """A panel for each contender: every stage where it begins and ends."""
    contenders, names, colours = report["contenders"], names_of(report), stage_colours(report)
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    longest = max(len(parts_of(each)) for each in contenders)
    height = 0.85 + rows * (0.55 + 0.185 * longest)
    figure = new_figure(height, "Stage by stage", "medians, one after the other; each contender on its own scale")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, axes in enumerate(panels):
        if place >= len(names):
            axes.set_visible(False)
            continue
        tidy(axes, "ms")
        call = contenders[place]["stages_ms"]["call"]["p50"]
        axes.set_title(
            literal(f"{names[place]}: {ms(call)} ms"), loc="left", fontsize=9, color=darker(colour_of(place))
        )
        _draw_waterfall(axes, parts_of(contenders[place]), colours)
    return Plot(
        to_png(figure, small_print(report)),
        "A waterfall of the stages of each contender",
        "Each bar begins where the stage before it ended. Right of it: its median and its share of the call.",
    )


def _draw_waterfall(axes: Axes, parts: dict[str, float], colours: dict[str, str]) -> None:
    whole = sum(parts.values())
    left = 0.0
    for row, (stage, width) in enumerate(parts.items()):
        axes.barh(row, width, 0.72, left, color=colours[stage])
        left += width
        share = f" · {100 * width / whole:.0f} %" if whole else ""
        after_bar(axes, left, row, f"{ms(width)}{share}")
    axes.set_yticks(range(len(parts)), [literal(stage) for stage in parts])
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, max(whole, 1e-9) * 1.25)


ENGINE_PLOTS: dict[str, Callable[[Report], Plot | None]] = {
    "distributions": distributions,
    "drift": drift,
    "stages": stages,
    "waterfall": waterfall,
}
