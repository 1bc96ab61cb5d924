"""From a sample and a turn to tensors, and from examples to a batch. The views are the runtime's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from agvas_runtime.prompts import Prompter
from agvas_train.data.conversation import ABOUT_DEFECTS, Turn
from agvas_train.model.config import ModelConfig

LONGEST_TEXT = 1024
"""Tokens of question and answers together; what is longer is cut, behind the last anchor."""


@dataclass(frozen=True)
class Example:
    """One turn about one image.

    Attributes:
        semantic, pixel: float32 views [3, S, S] and [3, P, P].
        before, text: token ids before and after the visual tokens: the question's end, the answer, what follows.
        taught: for each token of the text, whether it is the model's to write: part of an answer, or its end.
        anchors: (anchor index in NOR, ANO, SEG, position within the text), in the order they stand.
        target: float32 [4 g, 4 g], share of what counts of each cell that the mask covers; zeros without a mask.
        valid: bool [4 g, 4 g], False on padding and where no pixel counts.
        tells_defects: whether the target is the image's defects, all of them; it may be a part's, or not be known.
    """

    semantic: NDArray[np.float32]
    pixel: NDArray[np.float32]
    before: tuple[int, ...]
    text: tuple[int, ...]
    taught: tuple[bool, ...]
    anchors: tuple[tuple[int, int], ...]
    target: NDArray[np.float32]
    valid: NDArray[np.bool_]
    tells_defects: bool


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
        tells_defects: bool [B].
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
    tells_defects: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from beside other work; the loader calls it, in a thread."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def changed(value: object) -> object:
            if isinstance(value, dict):
                return {key: changed(item) for key, item in value.items()}
            return change(value) if isinstance(value, Tensor) else value

        return Batch(**{name: changed(value) for name, value in vars(self).items()})  # type: ignore[arg-type]


def make_example(image: NDArray[np.uint8], turn: Turn, prompter: Prompter, config: ModelConfig) -> Example:
    """Tensors of one turn about one image, uint8 RGB [H, W, 3]; a text ends after `LONGEST_TEXT` tokens."""
    pixel, (height, width) = config.pixel_view.apply(image)
    before, text, taught = _texts(turn, prompter)
    order = {token: index for index, token in enumerate(prompter.anchor_ids)}
    anchors = [(order[token], at) for at, token in enumerate(text) if token in order]
    longest = max(LONGEST_TEXT, anchors[-1][1] + 1 if anchors else 0)
    place = (height, width, config.pixel_view.size, 4 * config.grid)
    counts = np.ones((height, width), bool) if turn.ignore is None else ~turn.ignore
    counted, target = _cells(counts, *place), _cells(turn.mask, *place)
    target = np.minimum(np.divide(target, counted, out=np.zeros_like(target), where=counted > 0), 1)
    return Example(
        semantic=config.semantic_view.apply(image)[0],
        pixel=pixel[0],
        before=before,
        text=tuple(text[:longest]),
        taught=tuple(taught[:longest]),
        anchors=tuple(anchors),
        target=target,
        valid=counted > 0,
        tells_defects=turn.task in ABOUT_DEFECTS,
    )


def _texts(turn: Turn, prompter: Prompter) -> tuple[tuple[int, ...], list[int], list[bool]]:
    """Ids before the visual tokens, ids after them, and which of these are taught.

    Later questions of a conversation are asked as the first, without the image (ours).
    """
    first = prompter.prompt(turn.instruction)
    said = [(first.after, prompter.answer(turn.answer, anchors=turn.anchors))]
    for question, answer in turn.more:
        asked = prompter.prompt(question)
        said.append(((*asked.before, *asked.after), prompter.answer(answer, anchors=False)))
    text = [token for pair in said for ids in pair for token in ids]
    its_own = (False, not turn.maps_only)
    taught = [its for pair in said for its, ids in zip(its_own, pair, strict=True) for _ in ids]
    return first.before, text, taught


def _cells(mask: NDArray[np.bool_] | None, height: int, width: int, canvas: int, size: int) -> NDArray[np.float32]:
    """Cover of each of size x size cells by a mask that the pixel view squeezes to height x width of its canvas."""
    padded = np.zeros((canvas, canvas), np.float32)
    if mask is not None:
        resized = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        padded[:height, :width] = resized
    if canvas % size == 0:
        cell = canvas // size
        means: NDArray[np.float32] = padded.reshape(size, cell, size, cell).mean(axis=(1, 3))
        return means
    shares = _shares(canvas, size)
    return np.asarray(shares @ padded @ shares.T, np.float32)


@lru_cache(maxsize=4)
def _shares(canvas: int, size: int) -> NDArray[np.float32]:
    """Share of each of `size` cells along a side that each pixel of the canvas covers, float32 [size, canvas].

    Not every map divides its canvas: CLIP's has 96 cells over 336 pixels, so a pixel may lie in two of them.
    """
    edges, pixels = np.arange(size + 1)[:, None] * canvas / size, np.arange(canvas)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    shares: NDArray[np.float32] = (np.maximum(overlap, 0) * size / canvas).astype(np.float32)
    return shares


def collate(examples: Sequence[Example], config: ModelConfig) -> Batch:
    """A batch of examples. Where an anchor's state stands follows `config.anchor_state`."""
    length = max(len(e.text) for e in examples)
    texts = torch.zeros(len(examples), length, dtype=torch.int64)
    predictors: list[tuple[int, int, int]] = []
    groups: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    shift = 1 if config.anchor_state == "predicting" else 0
    for sample, e in enumerate(examples):
        texts[sample, : len(e.text)] = torch.tensor(e.text)
        taught = zip(e.text, e.taught, strict=True)
        predictors.extend((sample, at - 1, token) for at, (token, its) in enumerate(taught) if its)
        if e.anchors:
            kinds = tuple(kind for kind, _ in e.anchors)
            groups.setdefault(kinds, []).append((sample, [position - shift for _, position in e.anchors]))
    samples, positions, predicted = torch.tensor(predictors, dtype=torch.int64).reshape(-1, 3).T
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
        tells_defects=torch.tensor([e.tells_defects for e in examples]),
    )
