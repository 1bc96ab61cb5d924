"""The endless stream of training batches: batch k of a run is the same whenever and wherever it is made.

That is what makes a resumed run see the same data: nothing but the step has to be remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from agvas_runtime.errors import InputError
from agvas_runtime.prompts import Prompter
from agvas_train.data.batch import Batch, Example, collate, make_example
from agvas_train.data.conversation import Turn
from agvas_train.model.config import ModelConfig


class Turns(Protocol):
    """Where the samples come from: synthetic images, or data sets."""

    def turn(self, index: int) -> tuple[NDArray[np.uint8], Turn]:
        """Image, uint8 RGB [H, W, 3], and turn of one index of the stream, by the index alone.

        Raises:
            InputError: more samples than allowed cannot be read.
        """
        ...


class TurnStream(IterableDataset[Batch | InputError]):
    """Micro-batches from step `start` on; each worker makes every n-th.

    Step k takes the samples k * batch_size ... (k + 1) * batch_size - 1, however many processes share them. A worker
    passes an InputError on as its last item: raised in it, it would reach the training process as a traceback.

    Args:
        batch_size: samples of a step, over all processes.
        micro_batch: samples of one micro-batch.
        rank, world: this process among the training processes.
        overfit: every step takes the samples of step 0.
        small: the model's configuration with a smaller pixel view, and how many steps see it.
    """

    def __init__(
        self,
        turns: Turns,
        *,
        config: ModelConfig,
        prompter: Prompter,
        batch_size: int,
        micro_batch: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        overfit: bool = False,
        small: tuple[ModelConfig, int] | None = None,
    ) -> None:
        self.turns = turns
        self.config = config
        self.prompter = prompter
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.start, self.stop = start, stop
        self.rank, self.world = rank, world
        self.overfit = overfit
        self.small = small
        self.accumulated = batch_size // world // micro_batch
        """Micro-batches of this process in one step."""

    def __iter__(self) -> Iterator[Batch | InputError]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        for number in range(self.start * self.accumulated + worker, self.stop * self.accumulated, workers):
            try:
                yield self.batch(*divmod(number, self.accumulated))
            except InputError as error:
                if info is None:
                    raise
                yield InputError(str(error))
                return

    def batch(self, step: int, part: int = 0) -> Batch:
        """One micro-batch of a step."""
        config = self.small[0] if self.small and step < self.small[1] else self.config
        step = 0 if self.overfit else step
        first = step * self.batch_size + (self.rank * self.accumulated + part) * self.micro_batch
        return collate([self.example(first + i, config) for i in range(self.micro_batch)], config)

    def example(self, index: int, config: ModelConfig | None = None) -> Example:
        """The sample of one index with a turn about it; `config` where its views are not the model's own."""
        image, turn = self.turns.turn(index)
        return make_example(image, turn, self.prompter, config or self.config)
