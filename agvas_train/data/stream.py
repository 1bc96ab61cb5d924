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
from agvas_train.data.conversation import Task, draw_task, draw_turn, suits
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.model.config import ModelConfig

OTHER_SAMPLE = 10**9
"""Distance of the index at which another sample is taken where the first does not suit its task."""


class SynthStream(IterableDataset[Batch]):
    """Micro-batches of synthetic samples, from step `start` on; each worker makes every n-th.

    Step k takes the samples k * batch_size ... (k + 1) * batch_size - 1, however many processes share them.

    Args:
        batch_size: samples of a step, over all processes.
        micro_batch: samples of one micro-batch.
        rank, world: this process among the training processes.
        overfit: every step takes the samples of step 0.
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
        micro_batch: int,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
        overfit: bool = False,
    ) -> None:
        self.config = config
        self.prompter = prompter
        self.templates = templates
        self.mixture = dict(mixture)
        self.synth = synth
        self.seed = seed
        self.batch_size = batch_size
        self.micro_batch = micro_batch
        self.start, self.stop = start, stop
        self.rank, self.world = rank, world
        self.overfit = overfit
        self.accumulated = batch_size // world // micro_batch
        """Micro-batches of this process in one step."""

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            torch.set_num_threads(1)
        for number in range(self.start * self.accumulated + worker, self.stop * self.accumulated, workers):
            yield self.batch(*divmod(number, self.accumulated))

    def batch(self, step: int, part: int = 0) -> Batch:
        """One micro-batch of a step."""
        step = 0 if self.overfit else step
        first = step * self.batch_size + (self.rank * self.accumulated + part) * self.micro_batch
        return collate([self.example(first + i) for i in range(self.micro_batch)], self.config)

    def example(self, index: int) -> Example:
        """The sample of one index with a turn about it."""
        rng = random.Random(f"{self.seed}/{index}")
        task = draw_task(self.mixture, rng)
        sample = generate(self.seed, index, self.synth)
        while not suits(task, sample):  # another sample rather than another task: the shares are the mixture's
            index += OTHER_SAMPLE
            sample = generate(self.seed, index, self.synth)
        turn = draw_turn(task, sample, self.templates, rng)
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
