"""What one pass of the language model needs for an instruction, prepared once: texts, trie, mask, positions, rows.

The sequence is [text before the image | visual tokens | rest of the prompt | trie nodes]. Prompt rows are causal; a
trie node sees the whole prompt, its own ancestors and itself, and stands at its depth behind the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.prompts import Prompt, Prompter
from agvas_runtime.result import AnswerKind
from agvas_runtime.templates import Templates
from agvas_runtime.trie import Trie, build_trie

MAX_TOKENS = 4096
"""Longest pass; attention's scores grow with its square (64 MB a head here)."""

HIDDEN = -20_000.0
"""Added to an attention score it leaves nothing of the key, in float32 and in half precision alike."""


@dataclass(frozen=True)
class PassPlan:
    """The constant part of the pass for one instruction.

    Attributes:
        before: int64, token ids before the visual tokens.
        after: int64, token ids behind them: the rest of the prompt, then the trie's nodes.
        position_ids: int64 [1, T].
        attention_bias: float32 [1, 1, T, T], added to the attention scores: 0 where the row may attend to the column,
            HIDDEN elsewhere.
        rows: int64 [K + 1], the last prompt token and the nodes.
    """

    prompt: Prompt
    trie: Trie
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    attention_bias: NDArray[np.float32]
    rows: NDArray[np.int64]


def template_trie(instruction: str, prompter: Prompter, templates: Templates) -> Trie:
    """The five full answers and every rejection of the class that the instruction names."""
    rejections = templates.rejections_of(templates.class_of(instruction))
    return build_trie(
        [
            *((t, AnswerKind.SEGMENTED, prompter.answer(t, anchors=True)) for t in templates.direct_answers),
            *((t, AnswerKind.REJECTED, prompter.answer(t, anchors=False)) for t in rejections),
        ]
    )


def plan_pass(instruction: str, prompter: Prompter, templates: Templates, visual_tokens: int) -> PassPlan:
    """Prepare the pass for an instruction; raises InputError when the instruction is not usable."""
    prompt = prompter.prompt(instruction)
    trie = template_trie(instruction, prompter, templates)
    length = len(prompt.before) + visual_tokens + len(prompt.after)
    total = length + len(trie.tokens)
    if total > MAX_TOKENS:
        raise InputError(f"instruction: its pass has {total} tokens, expected at most {MAX_TOKENS}; shorten it")
    sees = np.tri(total, dtype=bool)
    sees[length:, length:] = trie.ancestors()
    bias = np.where(sees, np.float32(0), np.float32(HIDDEN))
    return PassPlan(
        prompt=prompt,
        trie=trie,
        before=np.array(prompt.before, np.int64),
        after=np.concatenate((np.array(prompt.after, np.int64), trie.tokens)),
        position_ids=np.concatenate((np.arange(length), length - 1 + trie.depths))[None],
        attention_bias=bias[None, None],
        rows=np.arange(length - 1, total),
    )
