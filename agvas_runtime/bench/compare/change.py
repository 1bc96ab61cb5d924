"""Whether a figure changed beyond noise.

Two runs of the same program never agree: within a run frames differ, and from run to run the machine does (memory lies
elsewhere, the clock's rate is another). The first is seen in the run's blocks; the second is not, so RUN_TO_RUN stands
for it, which was measured (docs/benchmarks.md). A change is one where an interval that allows for both leaves out 1,
at a level that lets a whole report of unchanged figures be wrong once in a hundred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import numpy as np

from agvas_runtime.bench.compare.series import Blocks, Series

RUN_TO_RUN = 0.025
"""Standard deviation of a stage's median from run to run, as a share, on the noisy machine of two cores."""
FALSE_ALARMS = 0.01
"""Of comparisons of unchanged programs, so many may tell of some change."""
FEWEST_BLOCKS = 3
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
        old_ms, new_ms: its medians in quiet blocks; of all frames where there are none.
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


def changes(old: dict[tuple[str, str], Series], new: dict[tuple[str, str], Series]) -> list[Change]:
    """All figures that both have, in the order of the old report."""
    both = [key for key in old if key in new]
    return [_change(old[key], new[key], len(both)) for key in both]


def _change(old: Series, new: Series, together: int) -> Change:
    if min(len(old.blocks), len(new.blocks)) < FEWEST_BLOCKS:
        before, after = float(np.median(old.values_ms)), float(np.median(new.values_ms))
        ratio = after / before if before else math.nan
        return Change(old.of, old.what, before, after, ratio, math.nan, math.nan, Verdict.UNCLEAR)
    middle = _log_median(new.blocks) - _log_median(old.blocks)
    spread = math.sqrt(_variance(old.blocks) + _variance(new.blocks) + 2 * RUN_TO_RUN**2)
    reach = NormalDist().inv_cdf(1 - FALSE_ALARMS / together / 2) * spread
    low, high = math.exp(middle - reach), math.exp(middle + reach)
    verdict = Verdict.SLOWER if low > 1 else Verdict.FASTER if high < 1 else Verdict.SAME
    before, after = math.exp(_log_median(old.blocks)), math.exp(_log_median(new.blocks))
    return Change(old.of, old.what, before, after, math.exp(middle), low, high, verdict)


def _log_median(blocks: Blocks) -> float:
    return float(np.median(np.log(blocks)))


def _variance(blocks: Blocks) -> float:
    """Of the median of the blocks' logarithms: by their median distance, so that one bad block widens nothing."""
    logs = np.log(blocks)
    deviation = 1.4826 * float(np.median(np.abs(logs - np.median(logs))))
    return math.pi / 2 * deviation**2 / len(blocks)
