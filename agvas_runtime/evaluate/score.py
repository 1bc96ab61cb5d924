"""Scoring one image: at its own size or a fixed one, a rejected image is a zero map, NO_ANSWER is one too.

Knows no command line, no files but masks, and no other image. What is averaged over a category is in rows.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime import metrics
from agvas_runtime.datasets import Item, load_mask
from agvas_runtime.maps import binarise

Probability = NDArray[np.float32]
Mask = NDArray[np.bool_]

NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Answer:
    """What a model, or another program's map, says of one image."""

    probability: Probability
    """float32 [H,W] of the image's own size, higher is more anomalous; zeros when rejected or without an answer."""
    threshold: float
    """What a pixel of the mask is above."""
    outcome: str
    """The answer's kind, "no answer", or "map"."""
    reason: str = ""
    answer_score: float | None = None
    """Image-level anomaly score of the answer, p_answer / (p_answer + p_reject), in [0,1]."""
    elapsed_ms: float | None = None
    """The whole call, from the file to the result."""
    instruction: str = ""
    """What the model was asked."""


@dataclass(frozen=True)
class Record:
    """One image's outcome and figures (shares in [0,1]; None where undefined), as they stand in images.jsonl."""

    name: str
    category: str
    kind: str
    anomalous: bool | None
    outcome: str
    reason: str
    score: float
    """The map's maximum: the image-level anomaly score."""
    answer_score: float | None
    elapsed_ms: float | None
    size: tuple[int, int]
    """(H, W) that was scored."""
    mask_px: int
    truth_px: int | None
    """None without pixel labels."""
    iou: float | None
    """None for a normal image, and where mask and ground truth are both empty."""
    regions: tuple[float, ...] = ()
    """The share of every region of the ground truth that the mask covers."""


class Scored(NamedTuple):
    """One image's record, and its pixels where there are pixel labels."""

    record: Record
    pixels: metrics.Pixels | None
    instruction: str


class Compared(NamedTuple):
    """What the model said beside what is true, at the size that is scored: for pictures."""

    probability: Probability
    mask: Mask
    truth: Mask
    """Empty without pixel labels."""


def score_image(item: Item, answer: Answer, size: int | None = None) -> tuple[Scored, Compared]:
    """Score an answer, at the image's own size or on size x size pixels. Raises InputError for an unusable mask."""
    probability, truth = answer.probability, load_mask(item, answer.probability.shape)
    if size is not None:
        probability, truth = resized_map(probability, size), resized_mask(truth, size)
    mask = binarise(probability, answer.threshold)
    labelled, anomalous = item.has_truth, bool(item.anomalous)
    iou = metrics.iou(mask, truth) if labelled and anomalous else float("nan")
    record = Record(
        name=item.name,
        category=item.category,
        kind=item.kind,
        anomalous=item.anomalous,
        outcome=answer.outcome,
        reason=answer.reason,
        score=float(probability.max()),
        answer_score=answer.answer_score,
        elapsed_ms=answer.elapsed_ms,
        size=(probability.shape[0], probability.shape[1]),
        mask_px=int(np.count_nonzero(mask)),
        truth_px=int(np.count_nonzero(truth)) if labelled else None,
        iou=None if np.isnan(iou) else iou,
        regions=tuple(metrics.coverage(mask, truth)),
    )
    pixels = metrics.split(probability, truth) if labelled else None
    return Scored(record, pixels, answer.instruction), Compared(probability, mask, truth)


def resized_map(probability: Probability, size: int) -> Probability:
    """Map float32 [H,W] -> float32 [size,size], bilinear; shrinking, over all pixels that a new one covers."""
    image = Image.fromarray(probability).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def resized_mask(truth: Mask, size: int) -> Mask:
    """Ground truth bool [H,W] -> bool [size,size]: defect where the resized mask, as a map, is at least a half.

    Where it is that nowhere, its highest pixels are the defect: an image does not lose its label by being shrunk.
    """
    covered = resized_map(truth.astype(np.float32), size)
    return covered >= np.float32(min(0.5, covered.max())) if truth.any() else np.zeros((size, size), np.bool_)
