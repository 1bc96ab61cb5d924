"""The figures that stand for many measured values."""

from collections.abc import Sequence

import numpy as np

BOUT = 20
"""Turns without a rest."""
PERCENTILES = {"min": 0.0, "p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def figures(values: Sequence[float]) -> dict[str, float]:
    """min, p50, p90, p99, p99.9, max and mean of at least one value, in their unit; between two values linearly."""
    found = np.percentile(values, list(PERCENTILES.values()))
    return {**dict(zip(PERCENTILES, found.tolist(), strict=True)), "mean": float(np.mean(values))}
