"""The proof that a bundle computes what its checkpoint computes: graph by graph, and end to end, on images.

PyTorch's side is the reference engine: cached greedy decoding, not the single pass. So the end-to-end figures cover the
template trie too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from agvas_export.graphs import Graph
from agvas_runtime.datasets import load_dataset
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import EngineError
from agvas_runtime.frames import find_images, read_image
from agvas_runtime.plan import plan_pass
from agvas_runtime.result import AnswerKind, Result
from agvas_runtime.segmenter import Segmenter
from agvas_train.checkpoint import Checkpoint
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter

IMAGES, SEED = 24, 20_260_301
"""Synthetic images that every export is proved on; no training run uses their seed by default."""

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Limits:
    """What a parity may not exceed, end to end. Each graph has the limit of its own precision: GRAPH_ERROR."""

    map_difference: float
    """Mean absolute difference of the probability maps, over the images that both segment."""
    other_answers: float
    """Share of images with another answer."""
    mask_disagreement: float
    """Share of pixels whose mask differs, over the images that both segment."""


GRAPH_ERROR = {"fp32": 1e-3, "int8": 0.25}
"""Largest difference of a graph's output from PyTorch's for equal inputs, relative to the output's largest value."""

LIMITS = {
    "fp32": Limits(map_difference=1e-4, other_answers=0.0, mask_disagreement=1e-4),
    "int8": Limits(map_difference=0.02, other_answers=0.10, mask_disagreement=0.01),
}
"""By the lowest precision in the bundle."""


@dataclass(frozen=True)
class Parity:
    """What was measured; stands in the manifest."""

    images: int
    segmented_images: int
    """Those that both sides segment; the maps of these are compared."""
    graph_error: dict[str, float]
    map_difference: float
    largest_map_difference: float
    other_answers: float
    mask_disagreement: float
    smallest_margin: float
    """Over all images: how near an answer came to flipping, in logits."""

    def check(self, limits: Limits, graph_limits: Mapping[str, float]) -> None:
        """Raise EngineError naming the first figure over its limit; `graph_limits` by the graph's name."""
        figures = {
            **{f"graph_error of {name}": (error, graph_limits[name]) for name, error in self.graph_error.items()},
            "map_difference": (self.map_difference, limits.map_difference),
            "other_answers": (self.other_answers, limits.other_answers),
            "mask_disagreement": (self.mask_disagreement, limits.mask_disagreement),
        }
        for name, (found, limit) in figures.items():
            if not found <= limit:
                raise EngineError(f"parity: {name} is {found:.3g}, the limit is {limit:g}; nothing was written")

    def as_json(self, limits: Limits, graph_limits: Mapping[str, float]) -> dict[str, object]:
        """For the manifest."""
        limited = {**asdict(limits), "graph_error": dict(graph_limits)}
        return {**asdict(self), "limits": limited, "against": "reference engine, PyTorch float32"}


def parity_images(verify: Path | None) -> list[RGB]:
    """The images of the proof: synthetic ones and, if named, every image of a folder or data set."""
    images = [generate(SEED, index).image for index in range(IMAGES)]
    if verify is None:
        return images
    if verify.is_dir() and not any(item.is_file() for item in verify.iterdir() if item.suffix != ".json"):
        items = [item for category in load_dataset(verify).categories.values() for item in category]
        return images + [read_image(item.image) for item in items]
    return images + [read_image(path) for path in find_images(verify)]


def graph_errors(
    graphs: Sequence[Graph], folder: Path, checkpoint: Checkpoint, images: Sequence[RGB]
) -> dict[str, float]:
    """Each graph in ONNX Runtime against its module in PyTorch, both fed with PyTorch's tensors of the images."""
    config = checkpoint.config.model
    errors = dict.fromkeys((graph.name for graph in graphs), 0.0)
    engines = {graph.name: OrtEngine(folder / f"{graph.name}.onnx") for graph in graphs}
    modules = {graph.name: graph for graph in graphs}

    def compare(name: str, **feeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The module's outputs; the engine's difference from them is noted."""
        with torch.inference_mode():
            outputs = modules[name].module(*feeds.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        found = engines[name].run({key: value.numpy() for key, value in feeds.items()})
        for key, expected in zip(modules[name].outputs, outputs, strict=True):
            if expected.is_floating_point():
                scale = float(expected.abs().max()) or 1.0
                errors[name] = max(errors[name], float(np.abs(found[key] - expected.numpy()).max()) / scale)
        return outputs

    example = modules["llm"].inputs
    for image in images:
        pixels = torch.from_numpy(config.pixel_view.apply(image)[0])
        (semantic,) = compare("semantic_encoder", pixels=torch.from_numpy(config.semantic_view.apply(image)))
        (pixel,) = compare("pixel_encoder", pixels=pixels)
        (visual,) = compare("spam", semantic=semantic, pixel=pixel)
        texts = _text_embeds(checkpoint, visual, example["inputs_embeds"].shape[1])
        _, _, _, states = compare(
            "llm", inputs_embeds=texts, **{k: v for k, v in example.items() if k != "inputs_embeds"}
        )
        compare("decoder", states=states[:3].clone(), pixel=pixel, alpha=torch.tensor(config.alpha))
    return errors


def _text_embeds(checkpoint: Checkpoint, visual: torch.Tensor, length: int) -> torch.Tensor:
    """The pass of the default instruction with an image's visual tokens in it."""
    spec = checkpoint.config.prompt
    plan = plan_pass(spec.default_instruction, checkpoint.prompter, checkpoint.templates, visual.shape[1])
    with torch.inference_mode():
        before, after = (checkpoint.model.embed(torch.from_numpy(ids))[None] for ids in (plan.before, plan.after))
        embeds = torch.cat((before, visual, after), dim=1)
    if embeds.shape[1] != length:
        raise EngineError(f"parity: the pass has {embeds.shape[1]} tokens, the example {length}")
    return embeds


def same_answer(found: Result, expected: Result) -> bool:
    """Whether the single pass says what greedy decoding wrote; outside the templates it knows the beginning only."""
    if found.answer_kind is AnswerKind.OTHER:
        return expected.answer.startswith(found.answer)
    return found.answer == expected.answer


def measure(graphs: Sequence[Graph], bundle: Path, checkpoint: Checkpoint, images: Sequence[RGB]) -> Parity:
    """Measure the parity of a bundle folder with its checkpoint over images."""
    errors = graph_errors(graphs, bundle / "graphs", checkpoint, images)
    segmenter, reference = Segmenter.open(bundle), ReferenceSegmenter(checkpoint, template_scores=False)
    other, differences, largest, wrong, pixels, margins = 0, [], 0.0, 0, 0, []
    for image in images:
        found, expected = segmenter.segment(image), reference.segment(image)
        margins.append(expected.scores.min_margin)
        if not same_answer(found, expected):
            other += 1
            continue
        if found.answer_kind is AnswerKind.SEGMENTED:
            difference = np.abs(found.probability - expected.probability)
            differences.append(float(difference.mean()))
            largest = max(largest, float(difference.max()))
            wrong += int((found.mask != expected.mask).sum())
            pixels += found.mask.size
    return Parity(
        images=len(images),
        segmented_images=len(differences),
        graph_error=errors,
        map_difference=float(np.mean(differences)) if differences else 0.0,
        largest_map_difference=largest,
        other_answers=other / len(images),
        mask_disagreement=wrong / pixels if pixels else 0.0,
        smallest_margin=min(margins),
    )
