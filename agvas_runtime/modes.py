"""The modes of the method: what a request says to the model, and how the answer's tokens are read. No tensors here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from agvas_runtime.errors import InputError
from agvas_runtime.prompts import MAX_INSTRUCTION_CHARACTERS, check_text
from agvas_runtime.templates import CLASS_FIELD, MAX_CLASS_CHARACTERS, Templates
from agvas_runtime.verdict import AnswerKind

MAX_LOOK_CHARACTERS = 240
"""Of a normal look. Behind it there is room for every template of ours with any class name."""


class Mode(str, Enum):
    """What the model is asked for, by the paper's names (main paper and Figures A.6 to A.12)."""

    DIRECT = "direct"
    """Anchors in one of a few known sentences, or a rejection."""
    DESCRIBE = "describe"
    """A description of the defect, then the anchors."""
    DESCRIBE_PLUS = "describe-plus"
    """The same, told first what the object normally looks like."""
    EXPLAIN = "explain"
    """Anchors first, then the explanation."""
    FINE_GRAINED = "fine-grained"
    """The user's own instruction: a position or an attribute."""
    CONVERSATION = "conversation"
    """A question about the image; no inspection."""
    GENERAL = "general"
    """Any class of objects, by [SEG] alone."""

    @property
    def token_limit(self) -> int:
        """Tokens an answer may have, its end token included."""
        text = (Mode.DESCRIBE, Mode.DESCRIBE_PLUS, Mode.EXPLAIN, Mode.CONVERSATION)
        return 512 if self in text else 128


@dataclass(frozen=True)
class Request:
    """What a command asks about every image.

    Attributes:
        instruction: the user's own instruction or question, instead of a template.
        class_name: what to look for ("scratches"), put into the mode's template.
        normal_look: a sentence on the normal look of the object, for describe-plus.
    """

    mode: Mode = Mode.DIRECT
    instruction: str | None = None
    class_name: str | None = None
    normal_look: str | None = None

    def __post_init__(self) -> None:
        """Take a mode by its name, too. Raises InputError for one that is none."""
        try:
            object.__setattr__(self, "mode", Mode(self.mode))
        except ValueError:
            expected = ", ".join(mode.value for mode in Mode)
            raise InputError(f"mode: found {self.mode!r}, expected {expected}") from None

    def check(self) -> None:
        """Raise InputError naming the field that is missing, too much or not usable.

        Fields have the names they have here and in the protocol; a command's options are called the same.
        """
        mode = self.mode.value
        if self.instruction is not None and self.class_name is not None:
            raise InputError("can't use both instruction and class_name; the instruction names its class itself")
        if self.mode is Mode.DESCRIBE_PLUS and self.normal_look is None:
            raise InputError("mode describe-plus needs normal_look, a sentence on the normal look of the object")
        if self.mode is not Mode.DESCRIBE_PLUS and self.normal_look is not None:
            raise InputError(f"mode {mode} takes no normal_look; describe-plus does")
        if self.mode in (Mode.FINE_GRAINED, Mode.CONVERSATION):
            if self.class_name is not None:
                raise InputError(f"mode {mode} takes no class_name; it needs instruction")
            if self.instruction is None:
                what = "your own instruction" if self.mode is Mode.FINE_GRAINED else "your question"
                raise InputError(f"mode {mode} needs instruction, {what}")
        if self.mode is Mode.GENERAL and self.class_name is None and self.instruction is None:
            raise InputError("mode general needs class_name, the objects to segment (or instruction)")
        for field, text, most in (
            ("instruction", self.instruction, MAX_INSTRUCTION_CHARACTERS),
            ("class_name", self.class_name, MAX_CLASS_CHARACTERS),
            ("normal_look", self.normal_look, MAX_LOOK_CHARACTERS),
        ):
            if text is not None:
                check_text(field, text, most)

    def text(self, templates: Templates, default_instruction: str) -> str:
        """The instruction as the model reads it.

        Where the user gives none of their own it is the first template of the mode, in direct mode the template of the
        default instruction; `default_instruction` is the model's own, asked where nothing at all is given.

        Raises:
            InputError: a field is missing, too much or not usable; the message names it.
        """
        self.check()
        if self == Request():
            return default_instruction
        text = self.instruction
        if text is None:
            template = {
                Mode.DIRECT: templates.default_template,
                Mode.DESCRIBE: templates.describe_instructions[0],
                Mode.DESCRIBE_PLUS: templates.describe_instructions[0],
                Mode.EXPLAIN: templates.explain_instructions[0],
                Mode.GENERAL: templates.general_instructions[0],
            }[self.mode]
            text = template.replace(CLASS_FIELD, " ".join((self.class_name or templates.default_class).split()))
        if self.normal_look is None:
            return text
        text = with_normal_look(self.normal_look, text)
        if len(text) > MAX_INSTRUCTION_CHARACTERS:
            found = f"found {len(text)} characters together"
            raise InputError(f"normal_look and instruction: {found}, expected at most {MAX_INSTRUCTION_CHARACTERS}")
        return text


def with_normal_look(normal_look: str, instruction: str) -> str:
    """The instruction of describe-plus: the normal look as a sentence of its own, then the instruction."""
    look = normal_look.strip()
    return f"{look} {instruction}" if look.endswith((".", "!", "?")) else f"{look}. {instruction}"


AnchorGroup = tuple[tuple[int, int], ...]
"""Of each anchor of a group: which one it is (0 NOR, 1 ANO, 2 SEG), ascending, and its place among the tokens."""


@dataclass(frozen=True)
class Reading:
    """What an answer turned out to be.

    Attributes:
        groups: the groups of anchors that stand for a map each; empty unless the kind is SEGMENTED.
        reason: why there is no result, where the kind is OTHER.
    """

    kind: AnswerKind
    groups: tuple[AnchorGroup, ...] = ()
    reason: str = ""


def read_answer(
    tokens: Sequence[int],
    *,
    finished: bool,
    mode: Mode,
    anchor_ids: Sequence[int],
    rejections: Collection[tuple[int, ...]],
) -> Reading:
    """Read an answer by the verdict's rule: only what reached its end is a result.

    Args:
        tokens: what was written, without the end token.
        finished: whether the end token came before the token limit.
        anchor_ids: ids of NOR, ANO and SEG.
        rejections: the rejections of the class asked for, as tokens without the end token.
    """
    stopped = "" if finished else f"stopped by the limit of {len(tokens)} tokens"
    if mode is Mode.CONVERSATION:
        reason = f"a conversation is no inspection{', and its answer was ' + stopped if stopped else ''}"
        return Reading(AnswerKind.OTHER, reason=reason)
    if stopped:
        return Reading(AnswerKind.OTHER, reason=f"the answer was {stopped}")
    if groups := anchor_groups(tokens, anchor_ids):
        return Reading(AnswerKind.SEGMENTED, groups)
    if tuple(tokens) in rejections:
        return Reading(AnswerKind.REJECTED)
    return Reading(AnswerKind.OTHER, reason="the answer holds no anchors and is none of the rejections")


def anchor_groups(tokens: Sequence[int], anchor_ids: Sequence[int]) -> tuple[AnchorGroup, ...]:
    """The groups of anchors in an answer, wherever they stand.

    A group ends where an anchor repeats or comes out of the order NOR, ANO, SEG; text in between ends none.
    """
    groups: list[list[tuple[int, int]]] = []
    for place, token in enumerate(tokens):
        if token not in anchor_ids:
            continue
        kind = anchor_ids.index(token)
        if not groups or kind <= groups[-1][-1][0]:
            groups.append([])
        groups[-1].append((kind, place))
    return tuple(map(tuple, groups))
