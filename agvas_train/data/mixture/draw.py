"""The sample at each index of the stream: task by weight, then a set, then one of its samples. No torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.templates import Templates
from agvas_train.data.conversation import GROUPS, Task, Turn, draw_task, draw_turn
from agvas_train.data.sets.adapter import Adapter, Halves, Tolerant
from agvas_train.data.sets.registry import REGISTRY, Group
from agvas_train.data.sets.sample import Sample, Source


@dataclass(frozen=True)
class Part:
    """What is drawn from uniformly: a set, or its normal or its anomalous images."""

    set: str
    kind: str
    """"normal" or "anomalous"; "" for a whole set."""
    samples: Tolerant


@dataclass(frozen=True)
class Pick:
    """What stands at an index, as long as it can be read."""

    task: Task
    part: Part
    place: int


@dataclass(frozen=True)
class Drawn:
    """A decoded sample of the stream: uint8 RGB [H, W, 3], and the turn about it."""

    pick: Pick
    source: Source
    image: NDArray[np.uint8]
    turn: Turn


class Mixture:
    """A turn for each index, by the seed, the index and the files alone.

    A task is drawn by its weight, which are Table A.1's sampling rates; uniformly a set of the task's group; in the
    anomaly groups normal or anomalous with equal chance, where the set has both; uniformly a sample. One that cannot be
    read, or has nothing for the task, gives its place to others of its part in an order drawn by seed and index.

    Args:
        sets: the sets that take part, by name.
        tasks: weight of each task; each of weight above 0 needs a set.
        unreadable_limit: how many unreadable samples of a set, or of its normal or its anomalous images, one process
            puts up with: below 1 a share of those it has met, from 1 on a count.
        report: told of each of them in one line.

    Raises:
        InputError: a set's list cannot be read, or none of its samples can be trained on.
    """

    def __init__(
        self,
        sets: Mapping[str, Adapter],
        templates: Templates,
        tasks: Mapping[Task, float],
        *,
        seed: int,
        unreadable_limit: float,
        report: Callable[[str], None] = console.note,
    ) -> None:
        self.templates = templates
        self.tasks = {task: weight for task, weight in tasks.items() if weight > 0}
        self.seed = seed
        self.sets: dict[Group, list[tuple[Part, ...]]] = {}
        """The parts of every set of a group."""
        for name, adapter in sets.items():
            parts = tuple(
                Part(name, kind, Tolerant(samples, unreadable_limit, report))
                for kind, samples in _parts(adapter).items()
                if len(samples)
            )
            if not parts:
                raise InputError(f"{name}: found no samples with pixel labels and no normal ones, expected some")
            self.sets.setdefault(REGISTRY[name].group, []).append(parts)

    def pick(self, index: int) -> Pick:
        """What stands at an index; reads nothing."""
        rng = random.Random(f"{self.seed}/{index}")
        task = draw_task(self.tasks, rng)
        part = rng.choice(rng.choice(self.sets[GROUPS[task]]))
        return Pick(task, part, rng.randrange(len(part.samples)))

    def draw(self, index: int) -> Drawn:
        """The sample of an index, decoded, with its turn.

        Raises:
            InputError: more samples than the limit allows cannot be read, or a part has none for the task.
        """
        pick = self.pick(index)

        def use(sample: Sample) -> Drawn | None:
            if not sample.images:
                return None
            turn = draw_turn(pick.task, sample, self.templates, random.Random(f"{self.seed}/{index}/turn"))
            return Drawn(pick, sample.source, side_by_side(sample.pixels), turn) if turn else None

        chance = f"{self.seed}/{index}/others"
        return pick.part.samples.take(pick.place, use, chance=chance, purpose=f"the task {pick.task.value}")

    def turn(self, index: int) -> tuple[NDArray[np.uint8], Turn]:
        """Image, uint8 RGB [H, W, 3], and turn of one index. Raises as `draw`."""
        drawn = self.draw(index)
        return drawn.image, drawn.turn


def _parts(adapter: Adapter) -> dict[str, Adapter]:
    if isinstance(adapter, Halves):
        return {"normal": adapter.half(anomalous=False), "anomalous": adapter.half(anomalous=True)}
    return {"": adapter}


def side_by_side(images: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    """One picture of a conversation's images: several squares stand in a row, each as large as the largest (ours)."""
    if len(images) == 1:
        return images[0]
    side = max(len(image) for image in images)
    return np.concatenate([np.asarray(Image.fromarray(image).resize((side, side))) for image in images], axis=1)


def turn_corpus(mixture: Mixture, count: int) -> list[str]:
    """Questions and answers of the first samples, for training a tokenizer."""
    turns = (mixture.turn(index)[1] for index in range(count))
    return [text for turn in turns for pair in ((turn.instruction, turn.answer), *turn.more) for text in pair]
