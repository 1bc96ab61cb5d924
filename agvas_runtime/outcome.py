"""From an answer and its map to a result: probabilities, mask, regions, verdict. Every engine's way ends here."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.maps import AnomalyMap
from agvas_runtime.modes import Reading
from agvas_runtime.plan import Known
from agvas_runtime.result import AnswerKind, Result, Scores
from agvas_runtime.trie import Trie
from agvas_runtime.verdict import Recipe, judge


class Stopwatch:
    """Milliseconds of named stages, in order."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End the stage that began when the last one ended; its time is added to what it had."""
        now = time.perf_counter()
        self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now

    def skip(self) -> None:
        """Count what has passed since the last stage to none."""
        now = time.perf_counter()
        self._start += now - self._last
        self._last = now

    def done(self) -> dict[str, float]:
        """All stages and their total."""
        return {**self.timings_ms, "total": (self._last - self._start) * 1e3}


def path_scores(known: Known, trie: Trie, edge_logprob: NDArray[np.floating[Any]], min_margin: float) -> Scores:
    """Probabilities of the known answers by their paths' products.

    Args:
        known: which answers the trie holds; of a kind that it does not hold, the rest stands for the sum.
        trie: their paths.
        edge_logprob: log-probability of every edge, [E].
        min_margin: of the answer that was written.
    """
    if known is Known.NOTHING:
        return Scores.unknown(min_margin)
    sums = {AnswerKind.SEGMENTED: 0.0, AnswerKind.REJECTED: 0.0}
    for answer in trie.answers:
        sums[answer.kind] += float(np.exp(edge_logprob[list(answer.edges)].sum(dtype=np.float64)))
    p_answer, p_reject = sums[AnswerKind.SEGMENTED], sums[AnswerKind.REJECTED]
    rest = max(1.0 - p_answer - p_reject, 0.0)
    answers = rest if known is Known.DESCRIBE else p_answer
    rejections = rest if known in (Known.CUT, Known.GENERAL) else p_reject
    total = answers + rejections
    return Scores(
        p_answer=p_answer,
        p_reject=p_reject,
        p_other=rest,
        anomaly=answers / total if total > 0 else 0.5,
        min_margin=min_margin,
    )


def finish(
    found: AnomalyMap,
    reading: Reading,
    text: str,
    scores: Scores,
    threshold: float,
    recipe: Recipe,
    watch: Stopwatch,
    hands: Executor | None = None,
    whole_map: bool = False,
    **more: Any,
) -> Result:
    """Mask, regions and verdict from the map at the image's size, which is 0 outside the recipe's region of interest.

    `threshold` is the bundle's, for a recipe that has none; `hands` help; with `whole_map` no row of the map is left
    for later; `more` are further fields of the result.
    """
    threshold = recipe.threshold_or(threshold)
    if whole_map:
        found.fill(hands)
    mask = found.above(threshold, hands)
    regions = found.regions(mask)
    verdict, reason = judge(reading.kind, regions, recipe)
    if reading.kind is AnswerKind.OTHER:
        reason = f"{reading.reason}: {text!r}"
    watch.lap("postprocess")
    more["threshold"] = threshold
    return Result(verdict, reason, text, reading.kind, found, mask, regions, scores, watch.done(), **more)
