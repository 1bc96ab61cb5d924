"""What is asked about a sample and what is answered, put together online from templates (paper, section A.1).

Samples of the public sets and synthetic ones come here alike. The templates stand in the runtime's `templates.json`,
which every checkpoint carries; how a question ends that is answered by a region, in `endings.json`: only training needs
that, and checkpoints of before do not have it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files

from agvas_runtime.errors import InputError
from agvas_runtime.modes import MAX_LOOK_CHARACTERS, with_normal_look
from agvas_runtime.prompts import MAX_INSTRUCTION_CHARACTERS, check_text
from agvas_runtime.templates import CLASS_FIELD, Templates
from agvas_train.data.sets.conversations import IMAGE
from agvas_train.data.sets.registry import Group
from agvas_train.data.sets.sample import ALL_ANCHORS, Mask, Region, Sample


class Task(str, Enum):
    """The families of the training mixture (Table A.1)."""

    DIRECT = "direct"
    DESCRIBE = "describe"
    DESCRIBE_PLUS = "describe-plus"
    """Describe-then-segment, told first what the object normally looks like."""
    EXPLAIN = "explain"
    GENERAL = "general"
    CONVERSATION = "conversation"


GROUPS = {
    Task.GENERAL: Group.GENERAL,
    Task.DESCRIBE: Group.INSTRUCT,
    Task.DESCRIBE_PLUS: Group.INSTRUCT,
    Task.EXPLAIN: Group.INSTRUCT,
    Task.DIRECT: Group.SEG,
    Task.CONVERSATION: Group.VQA,
}
"""The group of Table A.1 that a task belongs to; the paper draws them with 0.4, 0.25, 0.25 and 0.1."""
ABOUT_DEFECTS = (Task.DIRECT, Task.DESCRIBE, Task.DESCRIBE_PLUS, Task.EXPLAIN)
"""Whose masks are all defects of the image; a turn without a mask is about a normal one."""


@dataclass(frozen=True)
class Turn:
    """One question and its answer, or a conversation of several.

    Attributes:
        anchors: whether the answer's text may hold anchors.
        mask: bool [H, W] that the anchors stand for, or None when the answer holds none.
        ignore: bool [H, W] of pixels that count neither way; None where all count.
        more: the questions and answers that follow; their texts hold no anchors.
        maps_only: the answer's words are not taught, only the maps of its anchors (ours).
    """

    task: Task
    instruction: str
    answer: str
    anchors: bool
    mask: Mask | None
    ignore: Mask | None = None
    more: tuple[tuple[str, str], ...] = ()
    maps_only: bool = False


_ANCHOR = re.compile(rf"\[({'|'.join(ALL_ANCHORS)})\]")
ENDINGS = json.loads(files("agvas_train.data").joinpath("endings.json").read_text(encoding="utf-8"))
_ARTICLE = re.compile(r"^(the|an?) (?=\S)", re.IGNORECASE)
"""Before a name of a region: the instructions say "the" themselves."""
MOST_QUESTION_BYTES = 1000
"""Of a question that is answered in words alone. A byte-level tokenizer makes at most as many tokens of it, and 1024 of
question and answer together are kept: behind a longer question nothing of the answer might be left."""


def draw_task(mixture: Mapping[Task, float], rng: random.Random) -> Task:
    """A random task by the mixture's weights."""
    return rng.choices(list(mixture), weights=list(mixture.values()))[0]


def draw_turn(
    task: Task, sample: Sample, templates: Templates, rng: random.Random, *, default_share: float = 0
) -> Turn | None:
    """A random turn of a task about a sample; None where the sample is sound but has nothing for the task.

    That is so, too, where the question is longer than a user could send, or than leaves room for the answer.

    Args:
        default_share: share of the direct instructions that are the default one, beside those that chance makes so.

    Raises:
        InputError: the sample's texts or its mask cannot be used; the message names the sample.
    """
    if task is Task.GENERAL:
        turn = _region_turn(sample, templates, rng)
    elif task is Task.CONVERSATION:
        turn = _conversation(sample)
    else:
        turn = _anomaly_turn(task, sample, templates, rng, default_share)
    if turn is None or len(turn.instruction) > MAX_INSTRUCTION_CHARACTERS:
        return None
    _check(turn, sample)
    return turn if turn.anchors or len(turn.instruction.encode()) <= MOST_QUESTION_BYTES else None


def _region_turn(sample: Sample, templates: Templates, rng: random.Random) -> Turn | None:
    left = [region for region in sample.regions if any(map(str.strip, region.phrases))]
    while left:
        region = left.pop(rng.randrange(len(left)))
        mask = region.mask
        if mask.any():
            instruction = _about(region, templates, rng)
            answer = f"{rng.choice(templates.general_answers)} {region.explanation}".strip()
            return Turn(Task.GENERAL, instruction, answer, True, mask, region.ignore)
    return None


def _about(region: Region, templates: Templates, rng: random.Random) -> str:
    """An instruction to segment a region, by one of its names or sentences."""
    phrases = [phrase.strip() for phrase in region.phrases if phrase.strip()]
    # a choice of one would draw all the same, and so change whatever a synthetic sample draws next
    phrase = rng.choice(phrases) if len(phrases) > 1 else phrases[0]
    if region.is_sentence:
        return f"{phrase} {rng.choice(ENDINGS['explained' if region.explanation else 'plain'])}"
    return rng.choice(templates.general_instructions).replace(CLASS_FIELD, _ARTICLE.sub("", phrase))


def _anomaly_turn(
    task: Task, sample: Sample, templates: Templates, rng: random.Random, default_share: float
) -> Turn | None:
    anomaly, caption = sample.anomaly, sample.caption
    if anomaly is None or (anomaly.present and anomaly.mask is None):
        return None
    lists = {Task.DIRECT: templates.direct_instructions, Task.EXPLAIN: templates.explain_instructions}
    describe = (*templates.describe_instructions, *templates.quoted_instructions)
    instruction, class_name = templates.draw_instruction(lists.get(task, describe), rng)
    if task is Task.DIRECT and default_share and rng.random() < default_share:
        instruction, class_name = templates.default_instruction, templates.default_class
    if task is Task.DESCRIBE_PLUS and caption:
        instruction = _told_first(caption.Expectation, instruction)
    if not anomaly.present:
        return Turn(task, instruction, rng.choice(templates.rejections).replace(CLASS_FIELD, class_name), False, None)
    answer = rng.choice(templates.direct_answers)
    if task is not Task.DIRECT:
        if caption is None:
            return None
        answer = f"{answer} {caption.Explanation.strip()}" if task is Task.EXPLAIN else caption.Summary.strip()
    return Turn(task, instruction, answer, True, anomaly.mask)


def _told_first(look: str, instruction: str) -> str:
    """The instruction behind the normal look, without it where there is none or the runtime would not take it."""
    told = with_normal_look(look, instruction)
    fits = look.strip() and len(look) <= MAX_LOOK_CHARACTERS and len(told) <= MAX_INSTRUCTION_CHARACTERS
    return told if fits else instruction


def _conversation(sample: Sample) -> Turn | None:
    """The first question and answer, and all up to the next that a user could not send, or that is not answered."""
    texts = [message.text.replace(IMAGE, "").strip() for message in sample.conversation]
    pairs = list(zip(texts[::2], texts[1::2], strict=False))
    good = next((number for number, pair in enumerate(pairs) if not _usable(*pair)), len(pairs))
    if not pairs:
        return None
    (instruction, answer), more = pairs[0], pairs[1 : max(good, 1)]
    return Turn(Task.CONVERSATION, instruction, answer, False, None, more=tuple(more))


def _usable(question: str, answer: str) -> bool:
    try:
        check_text("question", question, MAX_INSTRUCTION_CHARACTERS)
    except InputError:
        return False
    return bool(answer)


def _check(turn: Turn, sample: Sample) -> None:
    """Raise InputError where a turn cannot be taught as it is: it would be asked otherwise, or mean nothing."""
    try:
        check_text("instruction", turn.instruction, MAX_INSTRUCTION_CHARACTERS)
        check_text("answer", turn.answer, len(turn.answer))
        for number, pair in enumerate(turn.more, 2):
            for text in pair:
                check_text(f"turn {number}", text, len(text))
    except InputError as error:
        raise InputError(f"{sample.source}: {error}") from None
    if turn.mask is None:
        return
    if not turn.mask.any():
        raise InputError(f"{sample.source}: found an empty mask, expected the defect's pixels")
    found = tuple(_ANCHOR.findall(turn.answer))
    if found != sample.anchors:
        raise InputError(f"{sample.source}: found the anchors {found} in the answer, expected {sample.anchors}")
