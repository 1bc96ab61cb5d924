"""Whether a figure changed beyond noise.

Two runs of the same program never agree: within a run frames differ, and from run to run memory lies elsewhere. The
first is seen in the run's blocks; the second is not, so RUN_TO_RUN stands for it. A change is one where the interval of
the ratio, which allows for both, leaves out 1, at a level that lets one in a hundred comparisons of unchanged programs
tell of any change. The interval is Student's by Welch, since blocks are few; what is allowed for is taken as known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np

from agvas_runtime.bench.compare.series import Blocks, Series

RUN_TO_RUN = {"engine": 0.025, "serve": 0.15}
"""Standard deviation of a figure's median from run to run, as a share. Of stages it was measured (docs/benchmarks.md);
of loads it is a guess on the safe side, for their server's machine is not watched."""
MISSES_RUN_TO_RUN = 0.005
"""The same of the share of frames that are missed, as a difference."""
FALSE_ALARMS = 0.01
"""Of comparisons of unchanged programs, so many may tell of some change."""
FEWEST_BLOCKS = 5
"""Fewer on one side tell nothing."""


class Verdict(str, Enum):
    """What became of a figure."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "no change beyond noise"
    UNCLEAR = "unclear"
    """Too few quiet frames to tell."""


@dataclass(frozen=True)
class Change:
    """A figure in both reports.

    Attributes:
        old_ms, new_ms: geometric means of the quiet blocks' medians; medians of all frames where these are too few.
        ratio: new by old.
        low, high: the interval of the ratio, NaN where it is unclear.
    """

    of: str
    what: str
    old_ms: float
    new_ms: float
    ratio: float
    low: float
    high: float
    verdict: Verdict


def changes(old: dict[tuple[str, str], Series], new: dict[tuple[str, str], Series], run_to_run: float) -> list[Change]:
    """All figures that both have, in the order of the old report."""
    both = [key for key in old if key in new]
    return [_change(old[key], new[key], run_to_run, len(both)) for key in both]


def _change(old: Series, new: Series, run_to_run: float, together: int) -> Change:
    if min(len(old.blocks), len(new.blocks)) < FEWEST_BLOCKS:
        before, after = float(np.median(old.values_ms)), float(np.median(new.values_ms))
        ratio = after / before if before else math.nan
        return Change(old.of, old.what, before, after, ratio, math.nan, math.nan, Verdict.UNCLEAR)
    logs = np.log(old.blocks), np.log(new.blocks)
    low, high = (math.exp(end) for end in _difference(*logs, run_to_run, together))
    verdict = Verdict.SLOWER if low > 1 else Verdict.FASTER if high < 1 else Verdict.SAME
    before, after = (math.exp(float(each.mean())) for each in logs)
    return Change(old.of, old.what, before, after, after / before, low, high, verdict)


def more_missed(old: dict[str, Blocks], new: dict[str, Blocks]) -> list[str]:
    """Loads of which a larger share is missed now, beyond noise; old and new are shares of blocks, see `misses_of`."""
    both = [name for name in old if name in new and min(len(old[name]), len(new[name])) >= FEWEST_BLOCKS]
    return [name for name in both if _difference(old[name], new[name], MISSES_RUN_TO_RUN, len(both))[0] > 0]


def _difference(old: Blocks, new: Blocks, run_to_run: float, together: int) -> tuple[float, float]:
    """The interval of new less old, where so many figures are compared together."""
    middle, seen = float(new.mean() - old.mean()), [float(each.var(ddof=1)) / len(each) for each in (old, new)]
    spread = sum(seen) + 2 * run_to_run**2
    freedom = spread**2 / max(seen[0] ** 2 / (len(old) - 1) + seen[1] ** 2 / (len(new) - 1), 1e-30)
    reach = student(1 - FALSE_ALARMS / together / 2, freedom) * math.sqrt(spread)
    return middle - reach, middle + reach


def student(share: float, freedom: float) -> float:
    """The quantile of Student's distribution, share in (0.5, 1), by the first terms of its expansion at the normal one.

    From 4 degrees of freedom on it is within a tenth of the true one down to shares of 0.9999; below that too small.
    """
    z = NormalDist().inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
