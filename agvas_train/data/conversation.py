"""What is asked about a sample and what is answered, put together online from templates (paper, section A.1)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.templates import CLASS_FIELD, Templates
from agvas_train.data.synth import Sample


class Task(str, Enum):
    """The families of the training mixture (Table A.1)."""

    DIRECT = "direct"
    DESCRIBE = "describe"
    EXPLAIN = "explain"
    GENERAL = "general"
    CONVERSATION = "conversation"


GROUPS = {
    Task.GENERAL: "general segmentation",
    Task.DESCRIBE: "Anomaly-Instruct",
    Task.EXPLAIN: "Anomaly-Instruct",
    Task.DIRECT: "Anomaly-Seg",
    Task.CONVERSATION: "visual question answering",
}
"""The group of Table A.1 that a task belongs to; the paper draws them with 0.4, 0.25, 0.25 and 0.1."""


@dataclass(frozen=True)
class Turn:
    """One question and its answer.

    Attributes:
        anchors: whether the answer's text may hold anchors.
        mask: bool [H, W] that the anchors stand for, or None when the answer holds none.
    """

    task: Task
    instruction: str
    answer: str
    anchors: bool
    mask: NDArray[np.bool_] | None


_QUESTIONS = ("Are there any {class_name} in this image?", "Do you see any {class_name} here?")
_SHOWN = ("What is shown in this image?", "Please describe this image.")


def draw_task(mixture: Mapping[Task, float], rng: random.Random) -> Task:
    """A random task by the mixture's weights."""
    return rng.choices(list(mixture), weights=list(mixture.values()))[0]


def suits(task: Task, sample: Sample) -> bool:
    """Whether a sample can serve a task: general segmentation needs a named part."""
    return task is not Task.GENERAL or bool(sample.parts)


def draw_turn(task: Task, sample: Sample, templates: Templates, rng: random.Random) -> Turn:
    """A random turn of a task about a sample that suits it."""
    if task is Task.GENERAL:
        name = rng.choice(sorted(sample.parts))
        instruction = rng.choice(templates.general_instructions).replace(CLASS_FIELD, name)
        return Turn(task, instruction, rng.choice(templates.general_answers), True, sample.parts[name])
    if task is Task.CONVERSATION:
        return _conversation(sample, templates, rng)
    return _anomaly_turn(task, sample, templates, rng)


def _anomaly_turn(task: Task, sample: Sample, templates: Templates, rng: random.Random) -> Turn:
    instructions = {
        Task.DIRECT: templates.direct_instructions,
        Task.DESCRIBE: templates.describe_instructions,
        Task.EXPLAIN: templates.explain_instructions,
    }[task]
    instruction, class_name = templates.draw_instruction(instructions, rng)
    if task is Task.DIRECT and rng.random() < 0.3:  # the default instruction is what most users send
        instruction, class_name = templates.default_instruction, templates.default_class
    if not sample.caption.exists:
        return Turn(task, instruction, rng.choice(templates.rejections).replace(CLASS_FIELD, class_name), False, None)
    answer = rng.choice(templates.direct_answers)
    if task is Task.DESCRIBE:
        answer = sample.caption.Summary
    elif task is Task.EXPLAIN:
        answer = f"{answer} {sample.caption.Explanation}"
    return Turn(task, instruction, answer, True, sample.mask)


def _conversation(sample: Sample, templates: Templates, rng: random.Random) -> Turn:
    if rng.random() < 0.5:
        return Turn(Task.CONVERSATION, rng.choice(_SHOWN), f"The image shows {sample.surface.name}.", False, None)
    question, _ = templates.draw_instruction(_QUESTIONS, rng)
    answer = f"Yes. {sample.caption.Observation}" if sample.caption.exists else f"No. {sample.caption.Expectation}"
    return Turn(Task.CONVERSATION, question, answer, False, None)
