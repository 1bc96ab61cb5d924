"""How an answer is written: first what the pass proved of it, then token by token behind the pass's keys and values.

It is greedy decoding's answer in any case; what differs is the time it takes. Sampling is for those who ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from agvas_runtime.engines import Engine
from agvas_runtime.errors import Cancelled, EngineError
from agvas_runtime.plan import PassPlan
from agvas_runtime.trie import ROOT_ROW, walk

NOT_FINITE = "the language model's logits are not finite numbers: the weights or the precision are at fault"


class Decoding(BaseModel):
    """How the answer to a request is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: bool = True
    """False where nobody reads the text: the answer ends behind its first group of anchors. A smaller trie, without the
    rejections, proves direct answers that far: good where most frames are defective."""
    max_new_tokens: int | None = Field(default=None, ge=1, le=2048)
    """Most tokens, the end token included; the mode's own limit when None. An answer that it stops is no result."""
    temperature: float = Field(default=0.0, ge=0, le=10)
    """0 is greedy. Above, tokens are drawn, and the next image may get another answer: not for inspection."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens only that have this much probability together."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Of the drawing; the same seed, image and request give the same answer."""
    strict_below: float | None = Field(default=None, ge=0)
    """Where an answer's smallest margin, in logits, is below this, plain decoding writes the answer that counts."""


@dataclass
class Answer:
    """What is written so far.

    Attributes:
        tokens: without the end token.
        states: last-layer states [d]: of the last prompt token, then of every token that was read back so far.
        margins: gap between the best two logits at each of them.
        proved: tokens that the pass proved.
        finished: whether the end token came.
        short: whether nobody read on behind the last of these tokens.
    """

    tokens: list[int] = field(default_factory=list)
    states: list[NDArray[Any]] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    proved: int = 0
    finished: bool = False
    short: bool = False

    def cut(self, length: int) -> None:
        """Keep only so many tokens."""
        self.finished = self.finished and length >= len(self.tokens)
        self.short = not self.finished
        del self.tokens[length:], self.states[length + 1 :], self.margins[length + 1 :]
        self.proved = min(self.proved, length)

    @property
    def min_margin(self) -> float:
        """Smallest; a NaN stays."""
        return float(np.min(self.margins))


@dataclass(frozen=True)
class Pass:
    """A frame's share of the pass: greedy int64 [R], margin [R], states [R, d], and keys and values of its batch.

    R counts the last prompt token and the trie's nodes.
    """

    greedy: NDArray[np.int64]
    margin: NDArray[np.floating[Any]]
    states: NDArray[np.floating[Any]]
    past: Mapping[str, Any]
    """"keys" and "values", [layers, B, key heads, tokens, head width]; may lie on a device until they are needed."""
    frame: int
    """Which of the batch."""

    def behind(self, rows: tuple[int, ...], prompt_length: int, skip: int = 0) -> list[NDArray[Any]]:
        """Keys and values of prompt and walked nodes alone, without the last `skip` tokens."""
        places = [*range(prompt_length), *(prompt_length + row - 1 for row in rows if row != ROOT_ROW)]
        places = places[: len(places) - skip]
        past = (np.asarray(self.past[name])[:, self.frame : self.frame + 1] for name in ("keys", "values"))
        return [np.take(part, places, axis=3) for part in past]


def write(
    done: Pass,
    plan: PassPlan,
    decoding: Decoding,
    limit: int,
    *,
    decode: Engine,
    embed: Callable[[int], NDArray[np.float32]],
    end_id: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Answer]:
    """Write an answer; the same object comes again and again as it grows, last of all when it is done.

    Args:
        done: the frame's share of the pass.
        plan: what the pass was planned for.
        decoding: how to write.
        limit: most tokens, the end token included.
        decode: the graph of one more token.
        embed: a token's embedding, float32 [d].
        end_id: the end token.
        cancelled: asked before every token.

    Raises:
        Cancelled: it is not wanted any more.
        EngineError: the graph failed, or the logits are no finite numbers.
    """
    draw = _Draw(decoding) if decoding.temperature else None
    rows = (ROOT_ROW,) if draw else walk(plan.trie, done.greedy)[:limit]
    answer = Answer(
        tokens=[int(plan.trie.tokens[row - 1]) for row in rows[1:]],
        states=[done.states[row] for row in rows],
        margins=[float(done.margin[row]) for row in rows],
        proved=len(rows) - 1,
    )
    _check(answer)
    token = int(done.greedy[rows[-1]])
    past: Sequence[Any] | None = None
    if draw:  # the pass gives no logits: the last prompt token is read once more
        past = done.behind(rows, plan.prompt_length, skip=1)
        last = int(plan.after[-1])
        out = step(decode, embed(last), plan.prompt_length - 1, past)
        token, past = draw(np.asarray(out["logits"])[0]), [out["keys"], out["values"]]
    while token != end_id:
        if len(answer.states) >= limit:
            # what the limit cuts was written, but is not read back
            answer.tokens.append(token)
            yield answer
            return
        if cancelled():
            raise Cancelled("the answer is not wanted any more")
        yield answer
        past = done.behind(rows, plan.prompt_length) if past is None else past
        position = plan.prompt_length + len(answer.tokens)
        answer.tokens.append(token)
        out = step(decode, embed(token), position, past)
        past = [out["keys"], out["values"]]
        answer.states.append(np.asarray(out["state"])[0])
        answer.margins.append(float(np.asarray(out["margin"])[0]))
        _check(answer)
        token = draw(np.asarray(out["logits"])[0]) if draw else int(np.asarray(out["greedy"])[0])
    answer.finished = True
    yield answer


def step(decode: Engine, embedding: NDArray[np.float32], position: int, past: Sequence[Any]) -> Mapping[str, Any]:
    """Read a token back, by its embedding [d], behind keys and values: what the graph gives. Raises EngineError."""
    feeds = {"inputs_embeds": embedding[None, None], "position_ids": np.array([[position]], np.int64)}
    return decode.run({**feeds, "past_keys": past[0], "past_values": past[1]})


def _check(answer: Answer) -> None:
    if not np.isfinite(answer.min_margin):
        raise EngineError(NOT_FINITE)


class _Draw:
    """Draws tokens by temperature and top-p."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._random = np.random.default_rng(decoding.seed)

    def __call__(self, logits: NDArray[np.floating[Any]]) -> int:
        """A token for logits [V]. Raises EngineError."""
        if not np.isfinite(logits).all():
            raise EngineError(NOT_FINITE)
        below = logits.astype(np.float64) - logits.max()
        with np.errstate(over="ignore"):  # infinitely far below the best is what it is
            chances = np.exp(below / self._decoding.temperature)
        chances /= chances.sum()
        order = np.argsort(-chances, kind="stable")
        ahead = np.cumsum(chances[order]) - chances[order]  # what the likelier ones have together
        kept = order[ahead < self._decoding.top_p]
        return int(self._random.choice(kept, p=chances[kept] / chances[kept].sum()))
