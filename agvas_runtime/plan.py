"""What one pass of the language model needs for an instruction, prepared once: texts, trie, mask.

The sequence is [text before the image | visual tokens | rest of the prompt | trie nodes]. Prompt rows are causal; a
trie node sees the whole prompt, its own ancestors and itself, and stands at its depth behind the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode
from agvas_runtime.prompts import Prompter
from agvas_runtime.result import AnswerKind
from agvas_runtime.templates import Templates
from agvas_runtime.trie import Trie, build_trie

MAX_TOKENS = 4096
"""Longest pass; attention's scores grow with its square (64 MB a head here)."""

HIDDEN = -20_000.0
"""Added to an attention score it leaves nothing of the key, in float32 and in half precision alike."""


class Known(str, Enum):
    """Which answers a pass tries: what it proves costs nothing more, what it does not is decoded token by token."""

    DIRECT = "direct"
    """The full answers and every rejection of the class."""
    CUT = "cut"
    """The answers up to their last anchor and nothing else: proves the mask, not the text behind it."""
    EXPLAIN = "explain"
    """The answers as the beginning of an explanation, and the full rejections."""
    DESCRIBE = "describe"
    """The rejections; a description is written freely."""
    GENERAL = "general"
    """The full answers with [SEG] alone, and those with all anchors."""
    NOTHING = "nothing"
    """None: plain decoding. One token is tried all the same, since a pass needs a node."""

    @classmethod
    def of(cls, mode: Mode, *, text: bool = True) -> Known:
        """What a mode is answered by; without text, where the answers begin with the anchors, up to them."""
        known = {
            Mode.DIRECT: cls.DIRECT,
            Mode.FINE_GRAINED: cls.DIRECT,
            Mode.DESCRIBE: cls.DESCRIBE,
            Mode.DESCRIBE_PLUS: cls.DESCRIBE,
            Mode.EXPLAIN: cls.EXPLAIN,
            Mode.CONVERSATION: cls.NOTHING,
            Mode.GENERAL: cls.GENERAL,
        }[mode]
        return cls.CUT if known in (cls.DIRECT, cls.EXPLAIN) and not text else known


@dataclass(frozen=True)
class PassPlan:
    """The constant part of the pass for one instruction.

    Attributes:
        known: which answers the trie holds.
        before: int64 [S], token ids before the visual tokens.
        after: int64 [T], token ids behind them: the rest of the prompt.
        prompt_length: tokens of the whole prompt, the visual ones included.
        node_bias: float32 [K, K], added to the nodes' attention scores on each other: 0 where the row may attend to the
            column, HIDDEN elsewhere.
        rejections: every rejection of the class, as tokens without the end token.
    """

    known: Known
    trie: Trie
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    prompt_length: int
    node_bias: NDArray[np.float32]
    rejections: frozenset[tuple[int, ...]]


def rejections_of(instruction: str, prompter: Prompter, templates: Templates) -> frozenset[tuple[int, ...]]:
    """Every rejection of the class that an instruction names, as tokens without the end token."""
    texts = templates.rejections_of(templates.class_of(instruction))
    return frozenset(prompter.answer(text, anchors=False)[:-1] for text in texts)


def template_trie(known: Known, instruction: str, prompter: Prompter, templates: Templates) -> Trie:
    """The known answers to an instruction, the rejections of the class that it names among them."""
    last = prompter.anchor_ids[-1]
    answers = [prompter.answer(text, anchors=True) for text in templates.direct_answers]
    rejections = [
        prompter.answer(text, anchors=False) for text in templates.rejections_of(templates.class_of(instruction))
    ]
    segmented: list[tuple[int, ...]] = {
        Known.DIRECT: answers,
        Known.EXPLAIN: [ids[:-1] for ids in answers],
        Known.CUT: [ids[: ids.index(last) + 1] for ids in answers],
        Known.GENERAL: [*(prompter.answer(text, anchors=True) for text in templates.general_answers), *answers],
        Known.DESCRIBE: [],
        Known.NOTHING: [answers[0][:1]],
    }[known]
    rejected = rejections if known in (Known.DIRECT, Known.EXPLAIN, Known.DESCRIBE) else []
    return build_trie(
        [*((AnswerKind.SEGMENTED, ids) for ids in segmented), *((AnswerKind.REJECTED, ids) for ids in rejected)],
        prompter.end_id,
    )


def plan_pass(
    instruction: str, prompter: Prompter, templates: Templates, visual_tokens: int, known: Known = Known.DIRECT
) -> PassPlan:
    """Prepare the pass for an instruction; raises InputError when the instruction is not usable."""
    prompt = prompter.prompt(instruction)
    trie = template_trie(known, instruction, prompter, templates)
    length = len(prompt.before) + visual_tokens + len(prompt.after)
    total = length + len(trie.tokens)
    if total > MAX_TOKENS:
        raise InputError(f"instruction: its pass has {total} tokens, expected at most {MAX_TOKENS}; shorten it")
    return PassPlan(
        known=known,
        trie=trie,
        before=np.array(prompt.before, np.int64),
        after=np.array(prompt.after, np.int64),
        prompt_length=length,
        node_bias=np.where(trie.ancestors(), np.float32(0), np.float32(HIDDEN)),
        rejections=rejections_of(instruction, prompter, templates),
    )
