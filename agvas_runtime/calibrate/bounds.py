"""What a count of rejects among so many images says about the rate: exact binomial (Clopper-Pearson) bounds.

Also the bound of an order statistic: where a limit is set so that at most k of n independent images lie above it, the
share of all images that lie above it is at most a Beta(k + 1, n - k) variable, whatever the images' distribution, so
that `upper_bound(k, n, ...)` holds for it although the limit was chosen by these very images.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HALVINGS = 100
"""Of an interval in [0,1]: more than float64 can tell apart."""


def at_most(k: int, n: int, rate: float) -> float:
    """P(X <= k) of a binomial X with n trials of this rate, in [0,1]."""
    if k >= n or rate <= 0:
        return 1.0 if k >= 0 else 0.0
    if k < 0 or rate >= 1:
        return 0.0
    j = np.arange(k + 1)
    logs = _log_choose(n)[: k + 1] + j * math.log(rate) + (n - j) * math.log1p(-rate)
    top = float(logs.max())
    return min(1.0, math.exp(top) * float(np.exp(logs - top).sum()))


def upper_bound(k: int, n: int, confidence: float) -> float:
    """Largest rate, in [0,1], at which k or fewer of n are as likely as 1 - confidence; 1 - (1-c)^(1/n) for k = 0."""
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(k, n, middle) > 1 - confidence else (low, middle)
    return high


def interval(k: int, n: int, confidence: float) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval of the rate of which k of n were seen, in [0,1]."""
    each = (1 + confidence) / 2
    return 1 - upper_bound(n - k, n, each), upper_bound(k, n, each)


def most_rejects(n: int, rate: float, confidence: float) -> int | None:
    """Most rejects among n images that still show the rate at this confidence; None where not even none does."""
    if at_most(0, n, rate) > 1 - confidence:
        return None
    low, high = 0, n  # at_most rises with k: low shows the rate, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_most(middle, n, rate) <= 1 - confidence else (low, middle)
    return low


def images_needed(rate: float, confidence: float) -> int:
    """Fewest images that show the rate, if none of them is rejected."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-rate))


@lru_cache(maxsize=4)
def _log_choose(n: int) -> NDArray[np.float64]:
    """log of n over j for j = 0 ... n, float64 [n + 1]."""
    j = np.arange(1, n + 1)
    return np.concatenate([[0.0], np.cumsum(np.log(n - j + 1) - np.log(j))])
