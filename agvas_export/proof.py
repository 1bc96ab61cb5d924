"""Measures how far a bundle is from its checkpoint: graph by graph, and end to end, on images.

The other side is the reference engine in float32: the library's own modules, cached greedy decoding instead of the
single pass. Half precision is judged by its rounding twin, since a CPU rounds nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_export.half import HALF_PORTS
from agvas_export.parity import HALF, GraphParity, WholeParity, output_errors
from agvas_export.rounding import RoundingTwin
from agvas_export.trace import Arrays, Trace
from agvas_runtime import console
from agvas_runtime.datasets import load_dataset
from agvas_runtime.engines import Engine
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.frames import find_images, read_image
from agvas_runtime.result import AnswerKind
from agvas_runtime.segmenter import GRAPHS, Segmenter
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter

SEED = 20_260_301
"""Of the synthetic images that every export is proved on; no training run uses it by default."""

RGB = NDArray[np.uint8]


def synthetic_images(count: int) -> list[RGB]:
    """The built-in images, uint8 RGB [H, W, 3] each."""
    return [generate(SEED, index).image for index in range(count)]


def image_files(folder: Path) -> list[Path]:
    """Every image of a folder or data set, each decoded once. Raises InputError at the first that cannot be.

    A folder with a data set's list or categories is that data set, whatever pictures lie beside them; a list may be
    named itself.
    """
    if folder.is_dir() or folder.suffix == ".json":
        files = [item.image for item in load_dataset(folder).items]
    else:
        files = list(find_images(folder))
    for file in files:
        read_image(file)
    return files


def pixels_of(image: RGB | Path) -> RGB:
    """The image itself, or the file's. Raises InputError."""
    return read_image(image) if isinstance(image, Path) else image


def prove_graph(path: Path, precision: str, traces: Sequence[Trace]) -> GraphParity:
    """Run a written graph on every image's tensors, and its twin where it is in half precision; one after the other."""
    name, parity = path.stem, GraphParity(precision)
    engine = OrtEngine(path, lean=True)
    found = [engine.run(_ports(trace.feeds[name], engine)) for trace in traces]
    engine.close()
    if precision in HALF:
        parity.unrounded_error = max(
            output_errors(output, np.asarray(outputs[output], np.float64), wanted)[0]
            for outputs, trace in zip(found, traces, strict=True)
            for output, wanted in trace.outputs[name].items()
            if wanted.dtype.kind == "f"
        )
        twin = RoundingTwin(path)
        found = [twin.run(trace.feeds[name]) for trace in traces]
        parity.peak_tensor, parity.peak = twin.peak
    for outputs, trace in zip(found, traces, strict=True):
        parity.add(outputs, trace.outputs[name], trace.anchor_rows if name == "llm" else ())
    return parity


def _ports(feeds: Arrays, engine: OrtEngine) -> Arrays:
    """Feeds in the graph's own types: keys and values may be half."""
    half = [name for name in HALF_PORTS if engine.inputs.get(name, ("",))[0] == "tensor(float16)"]
    return {name: value.astype(np.float16) if name in half else value for name, value in feeds.items()}


def whole_parity(segmenter: Segmenter, reference: ReferenceSegmenter, images: Sequence[RGB | Path]) -> WholeParity:
    """Run the bundle and the reference on every image."""
    parity = WholeParity(images=len(images))
    ious, differences, other, left = [], [], 0, 0
    for image in console.progress(images, "parity", len(images)):
        pixels = pixels_of(image)
        found, expected = segmenter.segment(pixels), reference.segment(pixels)
        parity.smallest_margin = min(parity.smallest_margin, expected.scores.min_margin)
        if reference.template_scores:
            change = abs(found.scores.anomaly - expected.scores.anomaly)
            parity.score_change = float(np.maximum(parity.score_change, change))
        left += not found.one_pass
        if (found.answer, found.answer_kind) != (expected.answer, expected.answer_kind):
            other += 1
            continue
        if found.answer_kind is not AnswerKind.SEGMENTED:
            continue
        union = int((found.mask | expected.mask).sum())
        ious.append(int((found.mask & expected.mask).sum()) / union if union else 1.0)
        difference = np.abs(found.probability - expected.probability)
        differences.append(float(difference.mean()))
        parity.largest_map_difference = float(np.maximum(parity.largest_map_difference, difference.max()))
    parity.segmented_images = len(ious)
    parity.other_answers, parity.decoded_answers = other / len(images), left / len(images)
    if ious:
        parity.mask_iou, parity.smallest_mask_iou = float(np.mean(ious)), min(ious)
        parity.map_difference = float(np.mean(differences))
    return parity


def whole_engines(folder: Path, precision: Callable[[str], str]) -> dict[str, Engine]:
    """Engines for the whole bundle: half precision as its rounding twin."""
    paths = {name: folder / "graphs" / f"{name}.onnx" for name in GRAPHS}
    return {
        name: RoundingTwin(path) if precision(name) in HALF else OrtEngine(path, lean=True)
        for name, path in paths.items()
    }
