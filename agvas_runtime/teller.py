"""Has a frame's answer written, and reads it. It knows the pipeline's passes, and nothing of maps or verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from agvas_runtime.modes import AnchorGroup, Mode, Reading, anchor_groups, read_answer
from agvas_runtime.pipeline import Pipeline, Seen
from agvas_runtime.plan import Known
from agvas_runtime.writer import Answer, Decoding, write


def never() -> bool:
    """Not cancelled."""
    return False


@dataclass(frozen=True)
class Told:
    """A frame's answer, and what it means."""

    answer: Answer
    reading: Reading
    rechecked: bool = False


@dataclass(frozen=True)
class Teller:
    """Has a frame's answer written and reads it."""

    pipeline: Pipeline
    seen: Seen
    frame: int
    mode: Mode
    decoding: Decoding
    cancelled: Callable[[], bool] = never

    def write(self) -> Iterator[Answer]:
        """The answer as it grows, up to its end or as far as it is asked for."""
        for answer in write(
            self.seen.passes[self.frame],
            self.seen.plan,
            self.decoding,
            self.decoding.max_new_tokens or self.mode.token_limit,
            decode=self.pipeline.engines["decode"],
            embed=self.pipeline.embed,
            end_id=self.pipeline.prompter.end_id,
            cancelled=self.cancelled,
        ):
            groups = () if self.decoding.text else self.complete(answer)
            if groups:  # nobody reads on
                (*_, (_, last)), *_ = groups
                answer.cut(last + 1)
                yield answer
                return
            yield answer

    def answer(self) -> Answer:
        """The whole answer."""
        *_, answer = self.write()
        return answer

    def told(self, answer: Answer) -> Told:
        """What an answer means; read again by plain decoding first where it was too close.

        That runs the pass anew: no other frame's answer may still be in writing.
        """
        bound, speculated = self.decoding.strict_below, self.seen.plan.known is not Known.NOTHING
        if bound is not None and speculated and not self.decoding.temperature and answer.min_margin < bound:
            plain = self.pipeline.plainly(self.seen, self.frame)
            teller = replace(self, seen=plain, frame=0)
            return replace(teller.told(teller.answer()), rechecked=True)
        reading = read_answer(
            answer.tokens,
            finished=answer.finished or answer.short,
            mode=self.mode,
            anchor_ids=self.pipeline.prompter.anchor_ids,
            rejections=self.seen.plan.rejections,
        )
        return Told(answer, reading)

    def complete(self, answer: Answer) -> tuple[AnchorGroup, ...]:
        """The groups of anchors that nothing can be added to, whose states are there."""
        if self.mode is Mode.CONVERSATION:
            return ()
        anchors = self.pipeline.prompter.anchor_ids
        groups = anchor_groups(answer.tokens[: len(answer.states) - 1], anchors)
        return groups if groups and groups[-1][-1][0] == len(anchors) - 1 else groups[:-1]

    def piece(self, answer: Answer, sent: str, *, last: bool = False) -> str:
        """What the answer's text has more than what was sent; half a character waits for its other half.

        Args:
            last: nothing follows, so half a character has to do.
        """
        text = self.pipeline.prompter.decode(answer.tokens)
        return (text if last or answer.finished else text.rstrip("\ufffd"))[len(sent) :]
