"""From a sample and a turn to tensors, and from examples to a batch. The views are the runtime's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from agvas_runtime.prompts import Prompter
from agvas_train.data.conversation import Turn
from agvas_train.model.config import ModelConfig


@dataclass(frozen=True)
class Example:
    """One turn about one image.

    Attributes:
        semantic, pixel: float32 views [3, S, S] and [3, P, P].
        before, after, answer: token ids around and after the visual tokens.
        anchors: (anchor index in NOR, ANO, SEG, position within the answer), in the order they stand.
        target: float32 [4 g, 4 g], share of each cell that the mask covers; zeros without a mask.
        valid: bool [4 g, 4 g], False on padding.
    """

    semantic: NDArray[np.float32]
    pixel: NDArray[np.float32]
    before: tuple[int, ...]
    after: tuple[int, ...]
    answer: tuple[int, ...]
    anchors: tuple[tuple[int, int], ...]
    target: NDArray[np.float32]
    valid: NDArray[np.bool_]


@dataclass
class Batch:
    """Examples side by side; texts are padded on the right, which causal attention never sees.

    Attributes:
        semantic, pixel: [B, 3, S, S], [B, 3, P, P].
        before: int64 [P], the same for all; texts: int64 [B, L] (prompt's end and answer).
        predictor_sample, predictor_position, predicted: int64 [M]; the text position that predicts an answer token.
        anchor_samples: for each set of present anchors, the samples that hold it, int64 [K].
        anchor_positions: for each set, text positions of its anchors, int64 [K, A].
        target, valid: [B, 4 g, 4 g].
    """

    semantic: Tensor
    pixel: Tensor
    before: Tensor
    texts: Tensor
    predictor_sample: Tensor
    predictor_position: Tensor
    predicted: Tensor
    anchor_samples: dict[tuple[int, ...], Tensor]
    anchor_positions: dict[tuple[int, ...], Tensor]
    target: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""

        def move(value: object) -> object:
            if isinstance(value, dict):
                return {key: move(item) for key, item in value.items()}
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return Batch(**{name: move(value) for name, value in vars(self).items()})  # type: ignore[arg-type]


def make_example(image: NDArray[np.uint8], turn: Turn, prompter: Prompter, config: ModelConfig) -> Example:
    """Tensors of one turn about one image, uint8 RGB [H, W, 3]."""
    pixel, (height, width) = config.pixel_view.apply(image)
    prompt = prompter.prompt(turn.instruction)
    answer = prompter.answer(turn.answer, anchors=turn.anchors)
    order = {token: index for index, token in enumerate(prompter.anchor_ids)}
    canvas, size = config.pixel_view.size, 4 * config.grid
    return Example(
        semantic=config.semantic_view.apply(image)[0],
        pixel=pixel[0],
        before=prompt.before,
        after=prompt.after,
        answer=answer,
        anchors=tuple((order[token], position) for position, token in enumerate(answer) if token in order),
        target=_cells(turn.mask, height, width, canvas, size),
        valid=_cells(np.ones((height, width), bool), height, width, canvas, size) > 0,
    )


def _cells(mask: NDArray[np.bool_] | None, height: int, width: int, canvas: int, size: int) -> NDArray[np.float32]:
    """Cover of each of size x size cells by a mask that the pixel view squeezes to height x width of its canvas."""
    padded = np.zeros((canvas, canvas), np.float32)
    if mask is not None:
        resized = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
        padded[:height, :width] = np.asarray(resized, np.float32) / 255
    if canvas % size == 0:
        cell = canvas // size
        return padded.reshape(size, cell, size, cell).mean(axis=(1, 3))
    shares = _shares(canvas, size)
    return shares @ padded @ shares.T


@lru_cache(maxsize=4)
def _shares(canvas: int, size: int) -> NDArray[np.float32]:
    """Share of each of `size` cells along a side that each pixel of the canvas covers, float32 [size, canvas].

    Not every map divides its canvas: CLIP's has 96 cells over 336 pixels, so a pixel may lie in two of them.
    """
    edges, pixels = np.arange(size + 1)[:, None] * canvas / size, np.arange(canvas)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(overlap, 0) * size / canvas).astype(np.float32)


def collate(examples: Sequence[Example], config: ModelConfig) -> Batch:
    """A batch of examples. Where an anchor's state stands follows `config.anchor_state`."""
    length = max(len(e.after) + len(e.answer) for e in examples)
    texts = torch.zeros(len(examples), length, dtype=torch.int64)
    predictors: list[tuple[int, int, int]] = []
    groups: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    shift = 1 if config.anchor_state == "predicting" else 0
    for sample, e in enumerate(examples):
        texts[sample, : len(e.after) + len(e.answer)] = torch.tensor((*e.after, *e.answer))
        start = len(e.after)
        predictors.extend((sample, start + i - 1, token) for i, token in enumerate(e.answer))
        if e.anchors:
            kinds = tuple(kind for kind, _ in e.anchors)
            groups.setdefault(kinds, []).append((sample, [start + position - shift for _, position in e.anchors]))
    samples, positions, predicted = (torch.tensor(column) for column in zip(*predictors, strict=True))
    return Batch(
        semantic=torch.from_numpy(np.stack([e.semantic for e in examples])),
        pixel=torch.from_numpy(np.stack([e.pixel for e in examples])),
        before=torch.tensor(examples[0].before),
        texts=texts,
        predictor_sample=samples,
        predictor_position=positions,
        predicted=predicted,
        anchor_samples={kinds: torch.tensor([sample for sample, _ in rows]) for kinds, rows in groups.items()},
        anchor_positions={kinds: torch.tensor([at for _, at in rows]) for kinds, rows in groups.items()},
        target=torch.from_numpy(np.stack([e.target for e in examples])),
        valid=torch.from_numpy(np.stack([e.valid for e in examples])),
    )
