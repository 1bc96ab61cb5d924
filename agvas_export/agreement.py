"""Whether the single pass writes what decoding token by token writes: pairs of an image and a request, counted.

The yardstick is the reference engine in float32; batches are measured by the same frames alone. Models whose walk
leaves the trie where one wants: `planted.py`. How near an export is to its checkpoint is another question: `proof.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agvas_runtime.modes import AnchorGroup, Request, anchor_groups
from agvas_runtime.result import Result
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.writer import Answer, Decoding
from agvas_train.reference import Decoded, ReferenceSegmenter

BOUND = 1e-4
"""Of margins in logits, of anchor states relative to their size, of a map's distance from its threshold."""
EXCEPTIONS = 1e-3
"""Share of the pairs whose answers may differ, where the reference's best two logits were nearer than the bound."""

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Written:
    """An answer as it was written, with the result that came of it.

    Attributes:
        tokens: without the end token.
        states: of the last prompt token and of every token that was read back, [T + 1, d].
        margins: gap between the best two logits at each of them.
        groups: its groups of anchors.
    """

    tokens: tuple[int, ...]
    finished: bool
    states: NDArray[Any]
    margins: NDArray[Any]
    groups: tuple[AnchorGroup, ...]
    result: Result


class Reference(ReferenceSegmenter):
    """The reference engine that tells how it came to a result."""

    def decode(self, embeds: Tensor, limit: int) -> Decoded:
        """As the reference; what was written is kept."""
        self._written = super().decode(embeds, limit)
        return self._written

    def write(self, image: RGB, request: Request, limit: int | None = None) -> Written:
        """Segment an image. Raises InputError."""
        self.max_new_tokens = limit
        result = self.segment(
            image,
            request.instruction,
            mode=request.mode,
            class_name=request.class_name,
            normal_look=request.normal_look,
        )
        tokens, states, _, finished = self._written
        with torch.inference_mode():
            best = self.model.logits(states).float().topk(2).values
        groups = anchor_groups(tokens, self.prompter.anchor_ids)
        return Written(tuple(tokens), finished, states.numpy(), (best[:, 0] - best[:, 1]).numpy(), groups, result)


class SinglePass(Segmenter):
    """The segmenter that tells how it came to a result."""

    def _result(self, seen: Any, frame: int, told: Any, *rest: Any) -> Result:
        self._answers.append(told.answer)
        return super()._result(seen, frame, told, *rest)

    def write(self, images: Sequence[RGB], request: Request, limit: int | None = None) -> list[Written]:
        """Segment images together. Raises InputError."""
        self._answers: list[Answer] = []
        results = self.segment_batch(images, request, decoding=Decoding(max_new_tokens=limit))
        return [
            Written(
                tuple(answer.tokens),
                answer.finished,
                np.array(answer.states),
                np.array(answer.margins),
                anchor_groups(answer.tokens, self.prompter.anchor_ids),
                result,
            )
            for answer, result in zip(self._answers, results, strict=True)
        ]


@dataclass
class Agreement:
    """What was found over many pairs.

    Attributes:
        anchor_shift: 1 where an anchor's state is that of its own token, 0 where of the token before it.
        threshold: of the masks.
        close: pairs whose smallest margin in the reference is within the bound.
        exceptions: pairs with different answers, where the reference's margin was within the bound.
        state_error: largest ||x - y|| / ||y|| of an anchor's state.
        row_error: the same of any state along an answer.
        map_difference: largest.
        differing_pixels: of the masks.
        farthest_pixel: how far from the threshold the reference's map was at most where the masks differ.
        departures: how many tokens were proved where the answer left the trie, to how often.
        faults: what is past a bound, in words.
    """

    anchor_shift: int = 1
    threshold: float = 0.5
    pairs: int = 0
    close: int = 0
    exceptions: int = 0
    state_error: float = 0.0
    row_error: float = 0.0
    map_difference: float = 0.0
    differing_pixels: int = 0
    farthest_pixel: float = 0.0
    anchors: int = 0
    departures: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, found: Written, expected: Written, what: str) -> None:
        """Compare what the single pass wrote with what it should; `what` names the pair."""
        self.pairs += 1
        self.close += bool(expected.margins.min() <= BOUND)
        self.kinds[expected.result.answer_kind.value] += 1
        if (found.tokens, found.finished) != (expected.tokens, expected.finished):
            same = [one == other for one, other in zip(found.tokens, expected.tokens, strict=False)]
            place = same.index(False) if False in same else len(same)
            if (margin := float(expected.margins[min(place, len(expected.margins) - 1)])) <= BOUND:
                self.exceptions += 1
            else:
                answers = f"{found.result.answer!r} instead of {expected.result.answer!r}"
                self.faults.append(f"{what}: token {place + 1} at margin {margin:.3g}: {answers}")
            return
        self._departure(found)
        self._states(found, expected, what)
        self._masks(found.result, expected.result, what)

    def _departure(self, found: Written) -> None:
        proved, tokens = found.result.proved_tokens, len(found.tokens)
        # an answer that the limit cut behind the last proved token may have stayed inside
        if tokens > proved + 1 or (found.finished and tokens > proved):
            self.departures[proved] += 1

    def _states(self, found: Written, expected: Written, what: str) -> None:
        difference = np.linalg.norm(found.states - expected.states, axis=1)
        errors = difference / np.linalg.norm(expected.states, axis=1)
        self.row_error = max(self.row_error, float(errors.max()))
        rows = [place + self.anchor_shift for group in expected.groups for _, place in group]
        for row in (row for row in rows if row < len(errors)):  # the limit cuts before the last token is read back
            self.anchors += 1
            self.state_error = max(self.state_error, float(errors[row]))
            if not errors[row] <= BOUND:
                self.faults.append(f"{what}: state {row} is off by {errors[row]:.3g}")

    def _masks(self, found: Result, expected: Result, what: str) -> None:
        if (found.answer_kind, len(found.group_maps)) != (expected.answer_kind, len(expected.group_maps)):
            self.faults.append(f"{what}: read as {found.answer_kind.value}, expected {expected.answer_kind.value}")
        self.map_difference = max(self.map_difference, float(abs(found.probability - expected.probability).max()))
        differing = found.mask != expected.mask
        self.differing_pixels += int(differing.sum())
        if differing.any():
            far = float(abs(expected.probability[differing] - self.threshold).max())
            self.farthest_pixel = max(self.farthest_pixel, far)
            if not far <= BOUND:
                self.faults.append(f"{what}: masks differ where the map is {far:.3g} from the threshold")

    def check(self) -> list[str]:
        """Everything that is past a bound; the exceptions' share is one."""
        share = self.exceptions / max(self.pairs, 1)
        many = [f"{self.exceptions} exceptions in {self.pairs} pairs"] if share > EXCEPTIONS else []
        return [*self.faults, *many]

    def as_json(self) -> dict[str, Any]:
        """All figures, the faults among them."""
        departures = {str(depth): self.departures[depth] for depth in sorted(self.departures)}
        return {**asdict(self), "departures": departures, "kinds": dict(self.kinds), "faults": self.check()}
