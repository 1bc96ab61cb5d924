"""What all graphs of a contender did together: become slower at once, as no change of one stage makes them.

On a virtual machine all graphs of a run may take 1.5 times as long as minutes before, from the first frame to the last,
while one-threaded code, the kernel's counts and a plain piece of work on all cores are as ever (docs/benchmarks.md).
A report cannot tell that from a program whose every graph is slower. So graphs are compared with each other, and what
they have in common is a figure of its own, which is never said to be more than unclear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from agvas_runtime.bench.compare.change import Change, Verdict
from agvas_runtime.bench.compare.series import Series

GRAPHS = ("encoders", "spam", "llm", "decoder")
FEWEST = 3
"""With fewer the median of their changes may be that of the one that changed."""
MOST_TOGETHER = 1.05
EMPTY = Series("", "", [], np.array([]))
Found = dict[tuple[str, str], Series]


def without_common(old: Found, new: Found) -> tuple[Found, Found, dict[str, float]]:
    """Both reports' figures, the graphs' without what a contender's have in common in each block; and by contender how
    many times as long its graphs together take in the new report.
    """
    before, after, times = dict(old), dict(new), {}
    for name in dict.fromkeys(of for of, _ in old):
        keys = [
            (name, graph) for graph in GRAPHS if all(len(each.get((name, graph), EMPTY).blocks) for each in (old, new))
        ]
        if len(keys) < FEWEST:
            continue
        usual = {key: float(np.median(old[key].blocks)) for key in keys}
        levels = []
        for found in (before, after):
            common = _common({key: found[key] for key in keys}, usual)
            for key in keys:
                series = found[key]
                factors = np.array([common[number] for number in series.numbers])
                found[key] = replace(series, blocks=series.blocks / factors)
            levels.append(float(np.median(list(common.values()))))
        times[name] = levels[1] / levels[0]
    return before, after, times


def all_changed(times: float) -> bool:
    """Whether a contender's graphs together changed so much that its whole call says nothing."""
    return not 1 / MOST_TOGETHER <= times <= MOST_TOGETHER


def unclear_where_all_changed(found: list[Change], together: Mapping[str, float]) -> list[Change]:
    """The changes, but for whole calls of contenders whose graphs changed together."""
    return [
        replace(each, verdict=Verdict.UNCLEAR)
        if each.what == "call" and all_changed(together.get(each.of, 1.0))
        else each
        for each in found
    ]


def _common(graphs: Mapping[tuple[str, str], Series], usual: Mapping[tuple[str, str], float]) -> dict[int, float]:
    """By block how many times as long as usual its graphs took: the median over them."""
    ratios: dict[int, list[float]] = {}
    for key, series in graphs.items():
        for number, block in zip(series.numbers, series.blocks, strict=True):
            ratios.setdefault(number, []).append(float(np.log(block / usual[key])))
    return {number: float(np.exp(np.median(each))) for number, each in ratios.items()}
