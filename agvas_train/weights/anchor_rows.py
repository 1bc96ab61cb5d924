"""Rows of the three anchors in token embeddings and output head. Which ids they have is the tokenizer's business."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agvas_runtime.errors import InputError
from agvas_train.weights.llava import EMBEDDINGS, HEAD
from agvas_train.weights.reader import LazyTensor, LazyTensors

NOISE = 0.1
"""Of new anchors' rows, in standard deviations of the rows in use."""
ROWS_MULTIPLE = 64
"""A table that has to grow grows to a multiple of this, as LLaVA-OneVision's own tables did."""
CHUNK_ROWS = 1024


def with_anchor_rows(
    tensors: LazyTensors, anchor_ids: Sequence[int], first_free: int, *, seed: int
) -> tuple[LazyTensors, int]:
    """Give new anchors their rows of the token embeddings and, where it is not tied, of the output head (ours).

    A new row is the mean of the rows in use plus normal noise of a tenth of their standard deviation, column by column:
    its logit starts close to the average one, so an untrained anchor is never emitted. All other rows stay as they are.
    A table with too few rows grows; rows that no token uses are the plain mean, which can never win an argmax.

    Args:
        tensors: with the tables, [rows, d] each, under AGVAS's names.
        anchor_ids: ids below `first_free` are in use already and keep their rows.
        first_free: the first id that no token of the folder's own tokenizer has.
        seed: of the noise.

    Returns:
        The tensors, with tables that are made anew whenever they are read; the vocabulary size that they have now.

    Raises:
        InputError: the tokenizer has more tokens than the table has rows.
    """
    rows = tensors[EMBEDDINGS].shape[0]
    if first_free > rows:
        raise InputError(f"tokenizer: has {first_free} tokens, the token embeddings have {rows} rows")
    new = [anchor for anchor in anchor_ids if anchor >= first_free]
    if not new:
        return tensors, rows
    size = rows if max(new) < rows else -(-(max(new) + 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    tables = {
        name: _with_rows(tensors[name], new, first_free, size, seed + number)
        for number, name in enumerate((EMBEDDINGS, HEAD))
        if name in tensors
    }
    return {**tensors, **tables}, size


def _with_rows(table: LazyTensor, new: list[int], first_free: int, size: int, seed: int) -> LazyTensor:
    rows, width = table.shape

    def read() -> Tensor:
        held = table.read()
        mean, deviation = _statistics(held[:first_free])
        noise = torch.randn(len(new), width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        grown = mean.to(table.dtype).repeat(size, 1)
        grown[:rows] = held
        grown[new] = (mean + NOISE * deviation * noise).to(table.dtype)
        return grown

    return LazyTensor((size, width), table.dtype, read)


def _statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns, float64 [d] each; no sum is ever kept in half precision."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    squares = total.clone()
    for chunk in rows.split(CHUNK_ROWS):
        single = chunk.float()
        total += single.sum(dim=0)
        squares += single.square().sum(dim=0)
    mean = total / len(rows)
    return mean, (squares / len(rows) - mean.square()).clamp(min=0).sqrt()
