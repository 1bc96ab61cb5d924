"""Contenders beside each other: memory, throughput, hits and misses, speed against quality. None where not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agvas_runtime.bench.report.engine_plots import Report, names_of, small_print
from agvas_runtime.bench.report.style import (
    INK,
    SERIES,
    Plot,
    after_bar,
    colour_of,
    dash_of,
    label_right,
    literal,
    log_if_wide,
    new_figure,
    tidy,
    to_png,
)
from agvas_runtime.bench.report.text import count, mib, ms, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIB = 2**20
DARK, LIGHT = SERIES[0], "#a9cfe6"
DEVICE, DEVICE_LIGHT = SERIES[2], "#a6d9c8"
LANGUAGE = ("llm", "text")
"""The stages that the trie is about."""


def memory(report: Report) -> Plot | None:
    """Resident memory, and the device's beside it where there is one: loaded and at its peak."""
    names = names_of(report)
    alone = [each["alone"] for each in report["contenders"]]
    resident = [_loaded_and_peak(found, "rss_") for found in alone]
    device = [_loaded_and_peak(found and found["device"], "") for found in alone]
    panels = [
        panel
        for panel in ((resident, "resident", DARK, LIGHT), (device, _device_name(alone), DEVICE, DEVICE_LIGHT))
        if any(any(pair) for pair in panel[0])
    ]
    if not panels:
        return None
    figure = new_figure(1.6 + 0.42 * len(names), "Memory", "dark: when loaded; light: at its peak; MiB")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (pairs, title, dark, light) in zip(places, panels, strict=True):
        tidy(axes, "MiB")
        axes.set_title(literal(title), loc="left", fontsize=9, color=INK)
        for row, (loaded, peak) in enumerate(pairs):
            axes.barh(row, (peak or 0) / MIB, 0.62, color=light)
            axes.barh(row, (loaded or 0) / MIB, 0.62, color=dark)
            text = f"{mib(loaded)} · {mib(peak)}" if loaded or peak else "not measured"
            after_bar(axes, max(loaded or 0, peak or 0) / MIB, row, text)
        _rows(axes, names if axes is places[0] else [""] * len(names))
        axes.set_xlim(0, max(value or 0 for pair in pairs for value in pair) / MIB * 1.02)
    told = "; ".join(f"{name} {mib(peak)} MiB" for name, (_, peak) in zip(names, resident, strict=True) if peak)
    return Plot(
        to_png(figure, small_print(report)),
        f"Memory of every contender; resident peak: {told or 'not measured'}",
        "Each contender in a process of its own, Python and libraries included. A device's memory is the whole "
        "process's, as its driver sees it.",
    )


def _loaded_and_peak(found: dict[str, Any] | None, prefix: str) -> tuple[float | None, float | None]:
    return (found[f"{prefix}loaded_bytes"], found[f"{prefix}peak_bytes"]) if found else (None, None)


def _device_name(alone: Sequence[dict[str, Any] | None]) -> str:
    return ", ".join(dict.fromkeys(found["device"]["name"] for found in alone if found and found["device"]))


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def throughput(report: Report) -> Plot | None:
    """Frames per second by batch size; None where at most one size was measured."""
    lines = []
    for place, (name, contender) in enumerate(zip(names_of(report), report["contenders"], strict=True)):
        measured = [each for each in contender["throughput"] if each["frames_per_s"]]
        if measured:
            lines.append((place, name, [(each["batch"], each["frames_per_s"]) for each in measured]))
    batches = sorted({batch for _, _, points in lines for batch, _ in points})
    if len(batches) < 2:
        return None
    figure = new_figure(max(4.0, 1.6 + 0.22 * len(lines)), "Throughput", "frames per second by batch size")
    axes = figure.add_subplot()
    tidy(axes, "frames in a batch", "frames/s", "y")
    highest = max(value for _, _, points in lines for _, value in points)
    for place, _, points in lines:
        x, y = [batches.index(batch) for batch, _ in points], [value for _, value in points]
        axes.plot(x, y, dash_of(place), marker="o", markersize=4.5, color=colour_of(place), linewidth=1.8)
    axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
    axes.set_xlim(-0.15, len(batches) - 0.95)
    axes.set_ylim(0, highest * 1.08)
    ends = [(batches.index(points[-1][0]), points[-1][1]) for _, _, points in lines]
    labels = [f"{name}  {points[-1][1]:,.1f}" for _, name, points in lines]
    label_right(axes, ends, labels, [colour_of(place) for place, _, _ in lines], figure.get_figheight() - 1.3)
    return Plot(
        to_png(figure, small_print(report)),
        "Frames per second by batch size: " + "; ".join(f"{label} at the largest" for label in labels),
        "A line that rises gains from batches; a flat one has its device full with one frame.",
    )


def hits_and_misses(report: Report) -> Plot | None:
    """Frames that the pass alone answered, and those that needed more; None where there are not both or no groups."""
    contenders, names = report["contenders"], names_of(report)
    groups = [group for group in ("hit", "miss") if all(group in each["groups"] for each in contenders)]
    if not groups:
        return None
    figure = new_figure(1.65 + 0.46 * len(names), "Known answers", "dark: language model and text; light: all else")
    longest = max(each["groups"][group]["stages_ms"]["call"]["p50"] for each in contenders for group in groups)
    panels = figure.subplots(1, len(groups), squeeze=False, sharex=True)[0]
    for axes, group in zip(panels, groups, strict=True):
        tidy(axes, "ms a frame")
        frames = contenders[0]["groups"][group]["frames"]
        axes.set_title(f"{group}: {count(frames, 'frame')}", loc="left", fontsize=9, color=INK)
        for row, each in enumerate(contenders):
            found = each["groups"][group]
            call = found["stages_ms"]["call"]["p50"]
            language = sum(found["stages_ms"][stage]["p50"] for stage in LANGUAGE if stage in found["stages_ms"])
            axes.barh(row, call, 0.62, color=LIGHT)
            axes.barh(row, min(language, call), 0.62, color=DARK)
            times = found["times_of_base"].get("call", {}).get("median")
            text = ms(call) + (f" · {times:.2f} ×" if times and each["name"] != report["base"] else "")
            after_bar(axes, call, row, text)
        _rows(axes, names if axes is panels[0] else [""] * len(names))
        axes.set_xlim(0, longest * 1.02)
    return Plot(
        to_png(figure, small_print(report)),
        "Medians of the whole call for hits and misses of the trie, every contender",
        "Medians. A frame is a hit where the single pass of the base gave the whole answer, and a miss where more had "
        "to be decoded. Behind the bars how many times as long as the base's the call is.",
    )


def speed_and_quality(report: Report) -> Plot | None:
    """The call's median against IoU with the reference's masks, and against AP where there are data."""
    contenders, names = report["contenders"], names_of(report)
    against = {each["quality"]["against"] for each in contenders if each["quality"]}
    iou = [1.0 if each["name"] in against else each["quality"] and each["quality"]["iou_mean"] for each in contenders]
    ap = [each["data"] and each["data"]["ap"] for each in contenders]
    panels = []
    if against and any(value is not None for value in iou):
        panels.append((iou, f"mean IoU with the masks of {short_names([', '.join(against)])[0]}", 1.0))
    if any(value is not None for value in ap):
        sets = ", ".join(dict.fromkeys(each["data"]["dataset"] for each in contenders if each["data"]))
        panels.append((ap, f"AP on {sets}, percent", 100.0))
    if not panels:
        return None
    figure = new_figure(max(4.2, 1.7 + 0.25 * len(names)), "Speed against quality", "best is up and to the left")
    for axes, (values, label, most) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        points = [
            (each["stages_ms"]["call"]["p50"], value, place)
            for place, (each, value) in enumerate(zip(contenders, values, strict=True))
            if value is not None
        ]
        hollow = {place for place, each in enumerate(contenders) if each["name"] in against and most == 1.0}
        _scatter(axes, points, names, hollow, most, figure.get_figheight() - 1.5)
        axes.set_ylabel(literal(label), fontsize=9, color=INK)
    told = "; ".join(
        f"{name} {ms(each['stages_ms']['call']['p50'])} ms, {panels[0][1]} {value:.4g}"
        for name, each, value in zip(names, contenders, panels[0][0], strict=True)
        if value is not None
    )
    return Plot(
        to_png(figure, small_print(report)),
        f"Speed against quality: {told}",
        "Left is faster, up is better. The reference agrees with itself, hence its hollow mark at 1; IoU says how "
        "alike the masks are, not how right; AP says that. The axes upwards need not begin at 0."
        if against
        else "Left is faster, up is better. The axis upwards need not begin at 0.",
    )


def _scatter(
    axes: Axes,
    points: list[tuple[float, float, int]],
    names: list[str],
    hollow: set[int],
    most: float,
    height_in: float,
) -> None:
    tidy(axes, "whole call, p50, ms", grid="both")
    speeds = [x for x, _, _ in points]
    if not log_if_wide(axes, "x", speeds):
        axes.set_xlim(0, 1.1 * max(speeds))
    lowest = min(y for _, y, _ in points)
    low = max(0.0, min(0.95 * most, lowest - 0.25 * (most - lowest)) if most == 1.0 else lowest - 5.0)
    high = most if most == 1.0 else min(most, max(y for _, y, _ in points) + 5.0)
    axes.set_ylim(low, high + 0.04 * (high - low))
    for x, y, place in points:
        face = "white" if place in hollow else colour_of(place)
        axes.plot(x, y, "o", markersize=7, color=colour_of(place), markerfacecolor=face, markeredgewidth=1.6)
    label_right(
        axes,
        [(x, y) for x, y, _ in points],
        [names[place] for *_, place in points],
        [colour_of(place) for *_, place in points],
        height_in,
    )


BESIDE_PLOTS: dict[str, Callable[[Report], Plot | None]] = {
    "known-answers": hits_and_misses,
    "throughput": throughput,
    "memory": memory,
    "quality": speed_and_quality,
}
