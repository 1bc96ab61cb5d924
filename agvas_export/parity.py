"""The proof that a bundle computes what its checkpoint computes: graph by graph, and end to end, on images.

The other side is the reference engine in float32: the library's own modules, cached greedy decoding instead of the
single pass. Half precision is judged by its rounding twin, since a CPU rounds nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_export.half import HALF_PORTS
from agvas_export.rounding import LARGEST, RoundingTwin
from agvas_export.trace import Arrays, Trace
from agvas_runtime import console
from agvas_runtime.datasets import load_dataset
from agvas_runtime.engines import Engine
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import EngineError
from agvas_runtime.frames import find_images, read_image
from agvas_runtime.result import AnswerKind, Result
from agvas_runtime.segmenter import Segmenter
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter

SEED = 20_260_301
"""Of the synthetic images that every export is proved on; no training run uses it by default."""
IMAGES, IMAGES_LARGE, LARGE = 24, 2, 100_000_000
"""How many of them, and how many for a model with more parameters than LARGE."""

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """What a bundle may lose end to end. Each graph has the limit of its own precision: GRAPH_ERROR."""

    other_answers: float
    """Share of images with another answer."""
    mask_iou: float
    """Mean over the images that both segment, at least; two empty masks count as 1."""
    score_change: float
    """Largest change of the image-level anomaly score."""


HALF = ("fp16", "int8-static", "fp8")
"""Precisions whose graphs are typed in half precision."""

GRAPH_ERROR = {"fp32": 1e-3, "fp16": 2e-2}
"""Largest difference of a graph's output from the reference's for equal inputs, relative to the output's largest."""
GRAPH_RELATIVE_ERROR = {"int8": 0.15, "int8-static": 0.15, "fp8": 0.15, "int4": 0.25}
"""||x - y|| / ||y|| of an output: with few bits single values stray further, which says little. Of trained weights."""

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
    """Of one graph, over all images."""

    precision: str
    error: float = 0.0
    """Largest difference, relative to the output's largest value; of half precision with every tensor rounded."""
    relative_error: float = 0.0
    """||x - y|| / ||y||, likewise."""
    largest_difference: float = 0.0
    output: str = ""
    """The output with the largest of what is limited."""
    limit: float | None = None
    """Of `error` in 16 and 32 bits, of `relative_error` in fewer; None for few bits on random weights."""
    state_error: float | None = None
    """Of the language model's pass: ||x - y|| / ||y|| over the states that stand for anchors."""
    unrounded_error: float | None = None
    """Of half precision: the same on the CPU, which rounds nothing."""
    peak: float | None = None
    """Of half precision: the largest magnitude of any half tensor."""
    peak_tensor: str | None = None

    @property
    def few_bits(self) -> bool:
        """Whether `relative_error` is what counts."""
        return self.precision in GRAPH_RELATIVE_ERROR

    @property
    def judged(self) -> float:
        """The error that has a limit."""
        return self.relative_error if self.few_bits else self.error

    def add(self, found: Mapping[str, NDArray[Any]], expected: Arrays) -> None:
        """Note the differences of one run's outputs."""
        for output, error, relative, difference in _errors(found, expected):
            if not (relative if self.few_bits else error) <= self.judged:
                self.output = output
            self.error = _max(self.error, error)
            self.relative_error = _max(self.relative_error, relative)
            self.largest_difference = _max(self.largest_difference, difference)

    def check(self, name: str, *, random_weights: bool) -> None:
        """Raise EngineError where a figure is past its limit; few bits are not judged on random weights."""
        if self.peak is not None and not self.peak <= LARGEST:
            raise EngineError(
                f"parity: {name} drifts first: half tensor {self.peak_tensor} reaches {self.peak:.4g}, "
                f"the limit is {LARGEST:g} (float16 ends at 65504); nothing was written"
            )
        if self.few_bits and random_weights:
            return
        self.limit = (GRAPH_RELATIVE_ERROR if self.few_bits else GRAPH_ERROR)[self.precision]
        if not self.judged <= self.limit:
            of = "its norm" if self.few_bits else "its largest value"
            raise EngineError(
                f"parity: {name} drifts first: output {self.output} is off by {self.judged:.3g} of {of}, "
                f"the limit of {self.precision} is {self.limit:g}; nothing was written"
            )


@dataclass
class WholeParity:
    """Of the whole bundle, from image to mask."""

    images: int = 0
    segmented_images: int = 0
    """Those that both sides segment; the masks of these are compared."""
    other_answers: float = 0.0
    mask_iou: float = 1.0
    """Mean."""
    smallest_mask_iou: float = 1.0
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
            ("mask_iou", not self.mask_iou >= limits.mask_iou),
            ("score_change", not self.score_change <= limits.score_change),
        ):
            if bad:
                raise EngineError(
                    f"parity: every graph is within its limit, the whole is not: {name} is {getattr(self, name):.3g}, "
                    f"the limit is {getattr(limits, name):g}; nothing was written"
                )


@dataclass(frozen=True)
class Parity:
    """What was measured; stands in the manifest."""

    graphs: dict[str, GraphParity]
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
            "graphs": graphs,
            "whole": {**asdict(self.whole), "limits": limits},
        }


def parity_images(count: int, verify: Path | None) -> list[RGB | Path]:
    """What the proof runs on: synthetic images and, if named, every image of a folder or data set (read when used)."""
    images: list[RGB | Path] = [generate(SEED, index).image for index in range(count)]
    return images + (image_files(verify) if verify else [])


def image_files(folder: Path) -> list[Path]:
    """Every image of a folder or data set. Raises InputError."""
    if folder.is_dir() and not any(item.is_file() for item in folder.iterdir() if item.suffix != ".json"):
        return [item.image for category in load_dataset(folder).categories.values() for item in category]
    return list(find_images(folder))


def pixels_of(image: RGB | Path) -> RGB:
    """The image itself, or the file's. Raises InputError."""
    return read_image(image) if isinstance(image, Path) else image


def prove_graph(path: Path, precision: str, traces: Sequence[Trace]) -> GraphParity:
    """Run a written graph on every image's tensors, and its twin where it is in half precision; one after the other."""
    name, parity = path.stem, GraphParity(precision)
    engine = OrtEngine(path, arena=False)
    found = [engine.run(_ports(trace.feeds[name], engine)) for trace in traces]
    engine.close()
    if precision in HALF:
        for outputs, trace in zip(found, traces, strict=True):
            unrounded = max(error for _, error, _, _ in _errors(outputs, trace.outputs[name]))
            parity.unrounded_error = _max(parity.unrounded_error or 0.0, unrounded)
        twin = RoundingTwin(path)
        found = [twin.run(trace.feeds[name]) for trace in traces]
        parity.peak_tensor, parity.peak = twin.peak
    for outputs, trace in zip(found, traces, strict=True):
        parity.add(outputs, trace.outputs[name])
        if name == "llm":
            rows = list(trace.anchor_rows)
            one, other = (np.asarray(each["states"], np.float64)[:, rows] for each in (outputs, trace.outputs[name]))
            share = float(np.linalg.norm(one - other) / np.linalg.norm(other))
            parity.state_error = _max(parity.state_error or 0.0, share)
    return parity


def _ports(feeds: Arrays, engine: OrtEngine) -> Arrays:
    """Feeds in the graph's own types: keys and values may be half."""
    half = [name for name in HALF_PORTS if engine.inputs.get(name, ("",))[0] == "tensor(float16)"]
    return {name: value.astype(np.float16) if name in half else value for name, value in feeds.items()}


def _errors(found: Mapping[str, NDArray[Any]], expected: Arrays) -> list[tuple[str, float, float, float]]:
    """Of every float output: name, largest difference by largest value, relative error, largest difference."""
    errors = []
    for name, wanted in expected.items():
        if wanted.dtype.kind != "f":
            continue
        difference = np.asarray(found[name], np.float64) - wanted
        largest, scale = float(np.abs(difference).max()), float(np.abs(wanted).max())
        norm, size = float(np.linalg.norm(difference)), float(np.linalg.norm(wanted.astype(np.float64)))
        if name in IN_LOGITS:
            scale, size = max(1.0, scale), max(float(np.sqrt(wanted.size)), size)
        errors.append((name, largest / (scale or 1.0), norm / (size or 1.0), largest))
    return errors


def _max(one: float, other: float) -> float:
    """The larger; a NaN stays."""
    return float(np.maximum(one, other))


def same_answer(found: Result, expected: Result) -> bool:
    """Whether the single pass says what greedy decoding wrote; outside the templates it knows the beginning only."""
    if found.answer_kind is AnswerKind.OTHER:
        return expected.answer.startswith(found.answer)
    return found.answer == expected.answer


def whole_parity(segmenter: Segmenter, reference: ReferenceSegmenter, images: Sequence[RGB | Path]) -> WholeParity:
    """Run the bundle and the reference on every image."""
    parity = WholeParity(images=len(images))
    ious, differences, other = [], [], 0
    for image in console.progress(images, "parity", len(images)):
        pixels = pixels_of(image)
        found, expected = segmenter.segment(pixels), reference.segment(pixels)
        parity.smallest_margin = min(parity.smallest_margin, expected.scores.min_margin)
        if reference.template_scores:
            parity.score_change = _max(parity.score_change, abs(found.scores.anomaly - expected.scores.anomaly))
        if not same_answer(found, expected):
            other += 1
            continue
        if found.answer_kind is not AnswerKind.SEGMENTED:
            continue
        union = int((found.mask | expected.mask).sum())
        ious.append(int((found.mask & expected.mask).sum()) / union if union else 1.0)
        difference = np.abs(found.probability - expected.probability)
        differences.append(float(difference.mean()))
        parity.largest_map_difference = _max(parity.largest_map_difference, float(difference.max()))
    parity.segmented_images = len(ious)
    parity.other_answers = other / len(images)
    if ious:
        parity.mask_iou, parity.smallest_mask_iou = float(np.mean(ious)), min(ious)
        parity.map_difference = float(np.mean(differences))
    return parity


def whole_engines(folder: Path, precision: Callable[[str], str]) -> dict[str, Engine]:
    """Engines for the whole bundle: half precision as its rounding twin."""
    from agvas_runtime.segmenter import GRAPHS

    paths = {name: folder / "graphs" / f"{name}.onnx" for name in GRAPHS}
    return {
        name: RoundingTwin(path) if precision(name) in HALF else OrtEngine(path, arena=False)
        for name, path in paths.items()
    }
