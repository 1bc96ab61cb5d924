"""How far a bundle may be from its checkpoint: the figures, their limits, and what is said where one is past its limit.

`proof.py` measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_export.rounding import LARGEST
from agvas_export.trace import Arrays
from agvas_runtime.errors import EngineError

HALF = ("fp16", "int8-static", "fp8")
"""Precisions whose graphs are typed in half precision."""
GRAPH_LIMITS = {
    "fp32": 1e-3,
    "fp16": 2e-2,
    "int8": 0.15,
    "int8-static": 0.15,
    "fp8": 0.15,
    "int4": 0.25,
}
"""Of a graph's error, for equal inputs: ||x - y|| / ||y|| of every output and of the states that stand for anchors;
in 16 and 32 bits also the largest difference by the largest value. With fewer bits single values stray."""
FEW_BITS = ("int8", "int8-static", "fp8", "int4")
FLIP_MARGINS = {"fp32": 1e-2, "fp16": 0.25}
"""A greedy token may be another one only where the reference's best two logits are nearer than this."""


@dataclass(frozen=True)
class Limits:
    """What a bundle may lose end to end."""

    other_answers: float
    """Share of images with another answer."""
    mask_iou: float
    """Mean over the images that both segment, at least; two empty masks count as 1."""
    score_change: float
    """Largest change of the image-level anomaly score."""


LIMITS = {
    "fp32": Limits(other_answers=0.0, mask_iou=0.999, score_change=1e-3),
    "fp16": Limits(other_answers=0.0, mask_iou=0.98, score_change=1e-2),
    "int8": Limits(other_answers=0.10, mask_iou=0.90, score_change=0.1),
    "int8-static": Limits(other_answers=0.10, mask_iou=0.85, score_change=0.1),
    "fp8": Limits(other_answers=0.10, mask_iou=0.85, score_change=0.1),
    "int4": Limits(other_answers=0.20, mask_iou=0.80, score_change=0.2),
}
"""By the lowest precision in the bundle. Judged on trained weights only: random ones decide by noise."""

IN_LOGITS = ("margin", "edge_logprob")
"""Outputs whose differences count in logits where they are below 1."""


@dataclass
class GraphParity:
    """Of one graph, over all its images. Half precision is judged with every tensor rounded."""

    precision: str
    largest_error: float = 0.0
    """Largest difference of an output, by its largest value."""
    relative_error: float = 0.0
    """||x - y|| / ||y||."""
    error: float = 0.0
    """What has a limit: the largest of those that count, see GRAPH_LIMITS."""
    output: str = ""
    """The output with that error."""
    limit: float | None = None
    """None for few bits on random weights."""
    flips: int = 0
    """Greedy tokens that differ although the reference's margin is above FLIP_MARGINS; of few bits not counted."""
    state_error: float | None = None
    """Of the language model's pass: ||x - y|| / ||y|| over the states that stand for anchors."""
    unrounded_error: float | None = None
    """Of half precision: the largest error on the CPU, which rounds nothing."""
    peak: float | None = None
    """Of half precision: the largest magnitude of any half tensor."""
    peak_tensor: str | None = None

    @property
    def few_bits(self) -> bool:
        """Whether single values may stray."""
        return self.precision in FEW_BITS

    def add(self, found: Mapping[str, NDArray[Any]], expected: Arrays, anchor_rows: tuple[int, ...] = ()) -> None:
        """Note the differences of one run's outputs; of `anchor_rows` of the states apart."""
        for name, wanted in expected.items():
            if wanted.dtype.kind != "f":
                continue
            largest, relative = output_errors(name, np.asarray(found[name], np.float64), wanted)
            self.largest_error = _max(self.largest_error, largest)
            self.relative_error = _max(self.relative_error, relative)
            self._count(name, relative if self.few_bits else _max(largest, relative))
        if anchor_rows:
            rows = list(anchor_rows)
            one, other = (np.asarray(each["states"], np.float64)[:, rows] for each in (found, expected))
            share = float(np.linalg.norm(one - other) / np.linalg.norm(other))
            self.state_error = _max(self.state_error or 0.0, share)
            self._count("states of the anchors", share)
        if "greedy" in expected and not self.few_bits:
            sure = expected["margin"] > FLIP_MARGINS[self.precision]
            self.flips += int(((found["greedy"] != expected["greedy"]) & sure).sum())

    def _count(self, output: str, error: float) -> None:
        if not error <= self.error:
            self.error, self.output = error, output

    def check_peak(self, name: str) -> None:
        """Raise EngineError where a half tensor reaches too far."""
        if self.peak is not None and not self.peak <= LARGEST:
            raise EngineError(
                f"parity: {name} drifts first: half tensor {self.peak_tensor} reaches {self.peak:.4g}, "
                f"the limit is {LARGEST:g} (float16 ends at 65504); nothing was written"
            )

    def check(self, name: str, *, random_weights: bool) -> None:
        """Raise EngineError where a figure is past its limit; of few bits on random weights, only what is no number."""
        self.check_peak(name)
        if not (self.few_bits and random_weights):
            self.limit = GRAPH_LIMITS[self.precision]
        allowed = "a finite number" if self.limit is None else f"{self.limit:g}"
        if not (np.isfinite(self.error) if self.limit is None else self.error <= self.limit):
            raise EngineError(
                f"parity: {name} drifts first: output {self.output} is off by {self.error:.3g} of its size, "
                f"the limit of {self.precision} is {allowed}; nothing was written"
            )
        if self.flips:
            raise EngineError(
                f"parity: {name} drifts first: {self.flips} greedy tokens differ where the reference's best two logits "
                f"are {FLIP_MARGINS[self.precision]:g} apart or more; nothing was written"
            )


def output_errors(name: str, found: NDArray[np.float64], wanted: NDArray[Any]) -> tuple[float, float]:
    """Of an output: largest difference by largest value, and ||x - y|| / ||y||."""
    difference = found - wanted
    largest, scale = float(np.abs(difference).max()), float(np.abs(wanted).max())
    norm, size = float(np.linalg.norm(difference)), float(np.linalg.norm(wanted.astype(np.float64)))
    if name in IN_LOGITS:
        scale, size = max(1.0, scale), max(float(np.sqrt(wanted.size)), size)
    return largest / (scale or 1.0), norm / (size or 1.0)


@dataclass
class WholeParity:
    """Of the whole bundle, from image to mask."""

    images: int = 0
    segmented_images: int = 0
    """Those that both sides segment; the masks of these are compared."""
    other_answers: float = 0.0
    """Share of images with another text or another kind of answer."""
    decoded_answers: float = 0.0
    """Share of images whose answer left the known ones, so that more than the pass was needed to write it."""
    mask_iou: float | None = None
    """Mean; None where no image was segmented by both sides, so that no mask was compared."""
    smallest_mask_iou: float | None = None
    score_change: float = 0.0
    """Largest."""
    map_difference: float = 0.0
    """Mean absolute difference of the maps."""
    largest_map_difference: float = 0.0
    smallest_margin: float = float("inf")
    """Over all images: how near an answer came to flipping, in logits."""

    def check(self, limits: Limits) -> None:
        """Raise EngineError naming the first figure past its limit."""
        for name, bad in (
            ("other_answers", not self.other_answers <= limits.other_answers),
            ("mask_iou", self.mask_iou is not None and not self.mask_iou >= limits.mask_iou),
            ("score_change", not self.score_change <= limits.score_change),
        ):
            if bad:
                raise EngineError(
                    f"parity: every graph is within its limit, the whole is not: {name} is {getattr(self, name):.3g}, "
                    f"the limit is {getattr(limits, name):g}; nothing was written"
                )

    @property
    def masks(self) -> str:
        """What was found of the masks, in words."""
        if self.mask_iou is None:
            return "no mask was compared, since no image is segmented (name images with defects: --verify DIR)"
        return f"mask IoU {self.mask_iou:.4f} (smallest {self.smallest_mask_iou:.4f})"


@dataclass(frozen=True)
class Parity:
    """What was measured; stands in the manifest."""

    graphs: dict[str, GraphParity]
    graph_images: int
    whole: WholeParity
    random_weights: bool
    limits: Limits | None
    """None where the weights are random: then only the graphs are judged."""

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        graphs = {
            name: {key: value for key, value in asdict(graph).items() if value is not None}
            for name, graph in self.graphs.items()
        }
        limits = asdict(self.limits) if self.limits else "not judged: random weights"
        return {
            "against": "reference engine, PyTorch float32",
            "graph_images": self.graph_images,
            "graphs": graphs,
            "whole": {**asdict(self.whole), "limits": limits},
        }


def _max(one: float, other: float) -> float:
    """The larger; a NaN stays."""
    return float(np.maximum(one, other))
