"""Reports of processes that measured by turns: bouts that lie beside each other in time are compared, pair by pair.

A shared machine is slow for seconds to minutes at a time. Both bouts of a pair met the same mood, whatever it was, so
nothing has to be guessed of it; a pair between which it changed is one among many. What one process alone met (the core
that a stage of one thread ran on) leaves its fastest frames as they are: a change must show in these, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agvas_runtime.bench.compare.change import FASTEST, FEWEST, Change, Verdict, agreed, judged
from agvas_runtime.bench.compare.series import times_of
from agvas_runtime.bench.figures import BOUT

NEAR_S = 5.0
"""Bouts whose beginnings lie further apart are no pair."""
FEWEST_PAIRS = 5
ALLOWED_BY_TURNS = 1.08
"""How many times as long a stage of the same program may take, in the median of the pairs."""


def pairs_of(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[int, int]]:
    """Bouts of the old report and of the new one of which one followed the other: no third lay between them.

    Each bout is in one pair at most: with one that is in many, its own mood would look like a change. Empty for reports
    of `serve` and for runs that were not measured side by side.
    """
    sides = enumerate(each.get("bouts_began_s", []) for each in (old, new))
    bouts = sorted((began, side, number) for side, all_of in sides for number, began in enumerate(all_of))
    pairs, alone = list[tuple[int, int]](), None
    for bout in bouts:
        if alone is None or alone[1] == bout[1] or bout[0] - alone[0] > NEAR_S:
            alone = bout
        else:
            pairs.append((alone[2], bout[2]) if bout[1] else (bout[2], alone[2]))
            alone = None
    return pairs if len(pairs) >= FEWEST_PAIRS else []


def changes_by_turns(old: dict[str, Any], new: dict[str, Any], pairs: Sequence[tuple[int, int]]) -> list[Change]:
    """All stages of all contenders that both reports have, in the order of the old one."""
    before, after, found = times_of(old), times_of(new), []
    for key in (key for key in before if key in after):
        sides = [(_bout(before[key], i), _bout(after[key], j)) for i, j in pairs]
        sides = [(first, second) for first, second in sides if first and second]
        few = BOUT * len(sides) < FEWEST
        medians = np.array([[np.median(first), np.median(second)] for first, second in sides]).reshape(-1, 2)
        ratio = float(np.median(medians[:, 1] / np.maximum(medians[:, 0], 1e-6))) if len(sides) else float("nan")
        verdict = (
            Verdict.UNCLEAR if few else agreed(*(judged(each, ALLOWED_BY_TURNS) for each in (ratio, _fastest(sides))))
        )
        old_ms, new_ms = (float(np.median(side)) if len(sides) else float("nan") for side in medians.T)
        found.append(Change(*key, old_ms, new_ms, ratio, 1.0, ALLOWED_BY_TURNS, verdict))
    return found


def _fastest(sides: Sequence[tuple[list[float], list[float]]]) -> float:
    """How many times as long the FASTEST percentile of the new frames is."""
    first, second = (np.percentile(np.concatenate(side), FASTEST) for side in zip(*sides, strict=True))
    return float(second / max(first, 1e-6))


def _bout(values: Sequence[float | None], number: int) -> list[float]:
    return [value for value in values[number * BOUT : (number + 1) * BOUT] if value is not None]
