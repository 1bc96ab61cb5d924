"""The endless stream of training batches: batch k of a run is the same whenever and wherever it is made.

That is what makes a resumed run see the same data: nothing but the step has to be remembered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import torch
from torch.utils.data import IterableDataset, get_worker_info

from agvas_runtime.prompts import Prompter
from agvas_runtime.templates import Templates
from agvas_train.data.batch import Batch, Example, collate, make_example
from agvas_train.data.conversation import Task, draw_turn
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.model.config import ModelConfig


class SynthStream(IterableDataset[Batch]):
    """Batches of synthetic samples, from step `start` on; each worker makes every n-th step.

    Args:
        rank, world: this process among the training processes; each sees its own samples.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        prompter: Prompter,
        templates: Templates,
        mixture: Mapping[Task, float],
        synth: SynthConfig,
        seed: int,
        batch_size: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config = config
        self.prompter = prompter
        self.templates = templates
        self.mixture = dict(mixture)
        self.synth = synth
        self.seed = seed
        self.batch_size = batch_size
        self.start, self.stop = start, stop
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        for step in range(self.start + worker, self.stop, workers):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        first = (step * self.world + self.rank) * self.batch_size
        return collate([self.example(first + i) for i in range(self.batch_size)], self.config)

    def example(self, index: int) -> Example:
        """The sample of one index with a turn about it."""
        sample = generate(self.seed, index, self.synth)
        turn = draw_turn(sample, self.templates, self.mixture, random.Random(f"{self.seed}/{index}"))
        return make_example(sample.image, turn, self.prompter, self.config)


def caption_corpus(seed: int, count: int, synth: SynthConfig) -> list[str]:
    """The captions of the first samples, for training a tokenizer."""
    corpus = []
    for index in range(count):
        sample = generate(seed, index, synth)
        caption = sample.caption
        corpus += [caption.Expectation, caption.Observation, caption.Diagnosis, caption.Summary, caption.Explanation]
        corpus += [f"The image shows {sample.surface.name}.", *sample.parts]
    return corpus
