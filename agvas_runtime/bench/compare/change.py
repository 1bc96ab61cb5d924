"""Whether a figure changed beyond noise.

What a machine adds to a stage's time is never below nothing, and comes and goes: so of a stage the fastest fiftieth and
the fastest tenth of its frames are compared, not the median, which is another one whenever the machine is in another
mood. A few odd frames may move the one, a mood that lasts may move the other: a change must show in both. How far they
differ between runs of the same program was measured (docs/benchmarks.md) and is what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from agvas_runtime.bench.compare.series import Found, Series

FASTEST, FAST = 2, 10
"""Percentiles of a stage's times that are compared."""
ALLOWED = math.exp(0.09)
"""How many times as long a stage of the same program may take in another run."""
GRAPHS = ("encoders", "spam", "llm", "decoder")
FEWEST_GRAPHS = 3
"""With fewer the median of their changes may be that of the one that changed."""
MOST_TOGETHER, ALLOWED_APART = math.exp(0.12), math.exp(0.18)
"""On a virtual machine all graphs of a whole run may take 1.5 times as long as in another. Where the median of their
changes is more than the first, they are compared with each other, and the second is allowed."""
ALLOWED_SERVED = 1.5
"""The same of a median of a load on a server, a guess on the safe side: its machine is not watched."""
MOST_MORE_MISSES = 0.02
"""How much larger the share of missed frames may be; of two runs of a few hundred frames it seldom differs by more."""
DEVIATIONS = 3
"""And in how many standard deviations of the difference of two such shares, were each frame missed by itself."""
FEWEST = 60
"""Fewer frames on one side tell nothing."""


class Verdict(str, Enum):
    """What became of a figure."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "no change beyond noise"
    UNCLEAR = "unclear"
    """Too few quiet frames, or all graphs changed together: the program or the machine."""


@dataclass(frozen=True)
class Change:
    """A figure in both reports.

    Attributes:
        old_ms, new_ms: a stage's FASTEST percentile; a load's median.
        ratio: new by old.
        together: how many times as long all graphs took; 1 for what is none.
        allowed: noise explains a ratio, by `together`, up to this or down to its reciprocal.
    """

    of: str
    what: str
    old_ms: float
    new_ms: float
    ratio: float
    together: float
    allowed: float
    verdict: Verdict


def stage_changes(old: Found, new: Found) -> list[Change]:
    """All stages that both reports of `engine` have, in the order of the old one."""
    fastest, fast = (_changes_at(share, old, new) for share in (FASTEST, FAST))
    return [
        replace(each, verdict=agreed(each.verdict, other.verdict)) for each, other in zip(fastest, fast, strict=True)
    ]


def _changes_at(share: float, old: Found, new: Found) -> list[Change]:
    """What one percentile says."""
    both = [key for key in old if key in new]
    times = {key: (_percentile(old[key], share), _percentile(new[key], share)) for key in both}
    ratios = {key: after / before for key, (before, after) in times.items()}
    all_graphs = {
        name: _together(ratios[of, what] for of, what in both if of == name and what in GRAPHS) for name, _ in both
    }
    found = []
    for of, what in both:
        apart = all_graphs[of] if what in GRAPHS else 1.0
        allowed = ALLOWED if apart == 1 else ALLOWED_APART
        few = min(len(old[of, what].values_ms), len(new[of, what].values_ms)) < FEWEST
        unclear = few or (what == "call" and all_graphs[of] != 1)
        verdict = Verdict.UNCLEAR if unclear else judged(ratios[of, what] / apart, allowed)
        found.append(Change(of, what, *times[of, what], ratios[of, what], apart, allowed, verdict))
    return found


def agreed(fastest: Verdict, fast: Verdict) -> Verdict:
    """A change must show in both."""
    if fastest in (fast, Verdict.SAME, Verdict.UNCLEAR):
        return fastest
    return Verdict.UNCLEAR if fast is Verdict.UNCLEAR else Verdict.SAME


def load_changes(old: Found, new: Found) -> list[Change]:
    """All figures of loads that both reports of `serve` have; not what neither server tells, as an engine's time."""
    found = []
    for key in (key for key in old if key in new and (old[key].values_ms or new[key].values_ms)):
        before, after = (_percentile(each[key], 50) for each in (old, new))
        few = min(len(each[key].values_ms) for each in (old, new)) < FEWEST
        verdict = Verdict.UNCLEAR if few else judged(after / before, ALLOWED_SERVED)
        found.append(Change(*key, before, after, after / before, 1.0, ALLOWED_SERVED, verdict))
    return found


def more_missed(old: dict[str, tuple[float, int]], new: dict[str, tuple[float, int]]) -> list[str]:
    """Loads of which a larger share is missed now than noise and chance explain; for each its share, of how many."""
    return [name for name in old if name in new and _more(*old[name], *new[name])]


def _more(old: float, old_count: int, new: float, new_count: int) -> bool:
    """Whether a share of so many frames is larger than another one of so many."""
    both = (old * old_count + new * new_count) / (old_count + new_count)
    deviation = math.sqrt(both * (1 - both) * (1 / old_count + 1 / new_count))
    return new - old > max(MOST_MORE_MISSES, DEVIATIONS * deviation)


def carried_verdict(old: dict[str, Any], new: dict[str, Any]) -> Verdict | None:
    """Whether the ramp of the new report carries fewer cameras, or more; None where not both have one to its end.

    A ramp that ended at its `--max-cameras` does not tell how many more there could be.
    """
    before, after = old.get("carried"), new.get("carried")
    if not before or not after:
        return None
    if after["cameras"] < before["cameras"]:
        return Verdict.UNCLEAR if after["first_broken"] is None else Verdict.SLOWER
    more = after["cameras"] > before["cameras"] and before["first_broken"] is not None
    return Verdict.FASTER if more else Verdict.SAME


def together(found: Iterable[Change]) -> dict[str, float]:
    """Contenders whose graphs all changed, and how many times as long they take."""
    return {each.of: each.together for each in found if each.together != 1}


def _together(ratios: Iterable[float]) -> float:
    """How many times as long all graphs take, where that is more than noise; else 1."""
    listed = list(ratios)
    if len(listed) < FEWEST_GRAPHS or not all(map(math.isfinite, listed)):  # without a turn there is no ratio
        return 1.0
    common = float(np.exp(np.median(np.log(listed))))
    return 1.0 if 1 / MOST_TOGETHER <= common <= MOST_TOGETHER else common


def judged(ratio: float, allowed: float) -> Verdict:
    """What a ratio says where noise explains `allowed` and its reciprocal."""
    return Verdict.SLOWER if ratio > allowed else Verdict.FASTER if ratio < 1 / allowed else Verdict.SAME


def _percentile(series: Series, share: float) -> float:
    return max(float(np.percentile(series.values_ms, share)), 1e-6) if series.values_ms else math.nan
