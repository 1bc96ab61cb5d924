"""How often what a model says of synthetic images is true: kind, place and size of defects, and of its own mask."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.modes import Mode
from agvas_runtime.result import Result
from agvas_runtime.verdict import AnswerKind
from agvas_train.data.synth import Sample, SynthConfig, generate
from agvas_train.data.synth.captions import noun
from agvas_train.data.synth.defects import PAINTERS
from agvas_train.data.synth.notes import place_word, size_word
from agvas_train.reference import ReferenceSegmenter

KINDS = {noun(kind): kind for kind in PAINTERS}
PLACE = "(?:in the|at the) ((?:top|bottom)(?:-left|-right)?|left|right|center)"
NOUN = "|".join(sorted(KINDS, key=len, reverse=True))
DEFECT = re.compile(rf"\b(tiny|small|medium-sized|large) ([a-z -]*?)\b({NOUN})s?\b[^.]*?{PLACE}")
"""A defect as captions put it: size, looks, kind, place."""
SAYING = (Mode.DIRECT, Mode.DESCRIBE, Mode.EXPLAIN)


@dataclass(frozen=True)
class Said:
    """One defect as an answer describes it."""

    size: str
    kind: str
    place: str


NOTHING = Said("?", "?", "?")


def read_description(text: str) -> list[Said]:
    """The defects that an answer describes, in its order; one that is described twice counts once."""
    found = [Said(each[1], KINDS[each[3]], each[4]) for each in DEFECT.finditer(text.lower())]
    return list(dict.fromkeys(found))


def seen(mask: NDArray[np.bool_]) -> tuple[str, str] | None:
    """Size and place of a mask (bool [H, W]) as captions put them; None of an empty one."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    return size_word(len(rows), mask.size), place_word(columns.mean(), rows.mean(), mask.shape[1], mask.shape[0])


def said_and_true(segmenter: ReferenceSegmenter, seed: int, count: int) -> dict[str, Any]:
    """Shares, in percent, over `count` images of training's families that training never draws, by mode.

    Normal images: answered by a rejection. Defective ones: answered; and, of the images with one defect that were
    answered with a description: kind, place and size those of the defect; place and size those of the model's own mask.
    An answer that describes several defects there is wrong in all of them, one with an empty mask in the last two.
    """
    samples = [generate(seed, index, SynthConfig()) for index in range(count)]
    return {mode.value: _shares([(each, segmenter.segment(each.image, mode=mode)) for each in samples])
            for mode in SAYING}  # fmt: skip


def _shares(answers: list[tuple[Sample, Result]]) -> dict[str, Any]:
    normal = [result for sample, result in answers if not sample.defects]
    defective = [(sample, result) for sample, result in answers if sample.defects]
    answered = [(sample, result) for sample, result in defective if result.answer_kind is AnswerKind.SEGMENTED]
    single = [(sample, result) for sample, result in answered if len(sample.defects) == 1]
    described = [(s, r, said) for s, r in single if (said := read_description(r.answer))]
    one = [(sample, result, said[0] if len(said) == 1 else NOTHING) for sample, result, said in described]
    own = [(seen(result.mask) or ("", ""), said) for _, result, said in one]
    return {
        "normal_images": len(normal),
        "normal_rejected": _percent(result.answer_kind is AnswerKind.REJECTED for result in normal),
        "defective_images": len(defective),
        "defective_answered": _percent(result.answer_kind is AnswerKind.SEGMENTED for _, result in defective),
        "one_defect_answered": len(single),
        "described": len(described),
        "several_described": sum(len(said) > 1 for _, _, said in described),
        "kind_true": _percent(said.kind == sample.defects[0].kind for sample, _, said in one),
        "place_true": _percent(said.place == sample.defects[0].place for sample, _, said in one),
        "size_true": _percent(said.size == sample.defects[0].size for sample, _, said in one),
        "size_of_own_mask": _percent(said.size == size for (size, _), said in own),
        "place_of_own_mask": _percent(said.place == place for (_, place), said in own),
    }


def _percent(flags: Any) -> float | None:
    values = list(flags)
    return round(100 * sum(values) / len(values), 1) if values else None
