"""Quality beside speed, outside of what is timed: masks against the reference's, and figures on a data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from agvas_runtime import console, metrics
from agvas_runtime.bench.contenders import REFERENCE
from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.latency import Track
from agvas_runtime.datasets import Dataset, Item
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Asks, asks
from agvas_runtime.result import Result


@dataclass(frozen=True)
class Opened:
    """A contender that is loaded, as a source of answers for agvas-eval's code."""

    track: Track

    def open(self) -> tuple[Asks, str]:
        """As `Source.open`."""
        return asks(self.track.segmenter, self.track.request), self.track.segmenter.weights_note

    def settings(self, items: Iterable[Item]) -> dict[str, Any]:
        """Nothing: the evaluation is not resumed."""
        return {}


def compare_masks(tracks: Sequence[Track], frames: Sequence[Frame]) -> list[dict[str, Any] | None]:
    """Every contender's masks beside those of one of them, for all frames; None for that one itself.

    What is compared with is the first contender with the engine `reference`, or else the first of all. Raises
    InputError, EngineError.

    Returns for each:
        against: that contender's name.
        frames: how many.
        iou_mean, iou_min: intersection over union of the masks; 1 where both are empty.
        same_verdicts: of how many frames the verdict is the same.
    """
    first = next((place for place, track in enumerate(tracks) if track.contender.engine == REFERENCE), 0)
    against, others = tracks[first], [*tracks[:first], *tracks[first + 1 :]]
    ious: list[list[float]] = [[] for _ in others]
    same = [0 for _ in others]
    for frame in console.progress(frames, "masks", len(frames)) if others else ():
        wanted = against.ask(frame)
        for place, track in enumerate(others):
            result = track.ask(frame)
            ious[place].append(_iou(result, wanted))
            same[place] += result.verdict is wanted.verdict
    found: list[dict[str, Any] | None] = [
        {
            "against": against.contender.name,
            "frames": len(frames),
            "iou_mean": float(np.mean(each)),
            "iou_min": min(each),
            "same_verdicts": count,
        }
        for each, count in zip(ious, same, strict=True)
    ]
    found.insert(first, None)
    return found


def data_figures(track: Track, dataset: Dataset, limit: int | None) -> dict[str, Any]:
    """What agvas-eval says of a contender: figures in percent, means over the categories (NaN where undefined).

    Raises InputError, EngineError.
    """
    mean = evaluate_dataset(Opened(track), dataset, limit).evaluation.mean()
    figures = {name: getattr(mean, name) for name in ("ap", "f1_max", "iou_ano", "iou_nor")}
    return {"dataset": dataset.name, "images": mean.images, **figures}


def _iou(result: Result, wanted: Result) -> float:
    found = metrics.iou(result.mask, wanted.mask)
    return 1.0 if isnan(found) else found
