"""Plots of raw samples: the distribution of many calls with its tail, and the calls in the order they were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from agvas_runtime.bench.report.style import GRID, INK, darker, literal, log_if_wide, new_figure, tidy, to_png
from agvas_runtime.bench.report.text import ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]
LEVELS = {"50 %": 0.5, "90 %": 0.9, "99 %": 0.99, "99.9 %": 0.999, "99.99 %": 0.9999}


class Curve(NamedTuple):
    """Values in ms under a short name, and when each was taken: at which turn, or second."""

    name: str
    values: Values
    at: Values
    colour: str
    dash: str = "-"


def curve(
    name: str, values: Sequence[float | None], colour: str, dash: str = "-", at: Sequence[float | None] | None = None
) -> Curve:
    """The known ones of the values, by when they were taken; by their place where nobody says when."""
    found = np.array(values, float)  # null becomes NaN
    times = np.arange(len(found), dtype=float) if at is None else np.array(at, float)
    known = np.isfinite(found) & np.isfinite(times)
    order = np.argsort(times[known], kind="stable")
    return Curve(name, found[known][order], times[known][order], colour, dash)


def draw_distributions(curves: Sequence[Curve], title: str, x_label: str, small_print: str) -> bytes:
    """The share of values that are at most x, its tail stretched: as many decades as there are values for."""
    top = max(np.log10(max(len(each.values) for each in curves)), 1.0)
    figure = new_figure(4.3 + 0.2 * len(curves), title, "further left is faster, steeper is steadier")
    axes = figure.add_subplot()
    tidy(axes, x_label, "share that took at most this long", "both")
    log_if_wide(axes, "x", np.concatenate([each.values for each in curves]).tolist())
    by_median = sorted(curves, key=lambda each: float(np.median(each.values)), reverse=True)
    for row, each in enumerate(by_median):
        _draw_curve(axes, each, row, top)
    levels = {name: -np.log10(1 - level) for name, level in LEVELS.items() if -np.log10(1 - level) <= top + 1e-9}
    axes.set_yticks([0.0, *levels.values()], ["fastest", *levels])
    axes.set_ylim(0, top * 1.03)
    return to_png(figure, small_print)


def _draw_curve(axes: Axes, each: Curve, row: int, top: float) -> None:
    """One curve; its name stands above the axes in a row of its own, on a line that goes down to its median."""
    heights = np.linspace(0.0, np.log10(len(each.values)), 400 if len(each.values) > 1 else 1)
    found = np.percentile(each.values, 100 * (1 - 10**-heights))
    slowest = each.values.max()
    axes.plot([*found, slowest], [*heights, heights[-1]], each.dash, color=each.colour, linewidth=1.8)
    axes.plot(slowest, heights[-1], "o", color=each.colour, markersize=4)
    p50, p99 = np.percentile(each.values, [50, 99]).tolist()
    axes.plot([p50, p50], [min(np.log10(2), heights[-1]), top * 1.03], ":", color=each.colour, linewidth=0.9)
    axes.annotate(
        literal(f" {each.name}  p50 {ms(p50)}, p99 {ms(p99)}"),
        xy=(p50, 1), xycoords=("data", "axes fraction"), xytext=(0, 4 + 14.4 * row), textcoords="offset points",
        fontsize=8.5, color=darker(each.colour),
        arrowprops={"arrowstyle": "-", "linestyle": ":", "color": each.colour, "linewidth": 0.9, "relpos": (0, 0),
                    "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip


def draw_drift(curves: Sequence[Curve], title: str, subtitle: str, x_label: str, small_print: str) -> bytes:
    """A strip each: every value when it was taken, and the running median."""
    figure = new_figure(1.1 + 0.85 * len(curves), title, subtitle)
    strips = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, each in zip(strips, curves, strict=True):
        tidy(axes, grid="y")
        _draw_strip(axes, each)
    strips[-1].set_xlabel(x_label, fontsize=9, color=INK)
    return to_png(figure, small_print)


def _draw_strip(axes: Axes, each: Curve) -> None:
    from matplotlib.ticker import MaxNLocator

    values = each.values
    middle = float(np.median(values))
    low = min(float(values.min()), 0.9 * middle)
    high = max(float(np.percentile(values, 98, method="lower")) * 1.05, 1.1 * middle)
    above = values > high
    size = 2.2 if len(values) > 1500 else 3.5 if len(values) > 200 else 6
    axes.plot(each.at[~above], values[~above], ".", color=each.colour, markersize=size, alpha=0.55, markeredgewidth=0)
    axes.plot(each.at[above], np.full(above.sum(), high), "^", color=each.colour, markersize=4)
    width = max(9, len(values) // 40) | 1
    if len(values) >= 3 * width:
        running = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
        inner = each.at[width // 2 : len(values) - width // 2]
        axes.plot(inner, running, color=darker(each.colour), linewidth=1.3)
    axes.axhline(middle, color=GRID, linewidth=0.7, zorder=0.5)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.12 * (high - low))
    axes.margins(x=0.01)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_title(literal(each.name), loc="left", fontsize=8.5, color=darker(each.colour), pad=3)
