"""The single pass writes what decoding token by token writes, wherever answers go. In full: tools/single_pass.py."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from agvas_export.agreement import BOUND, Agreement, Written
from agvas_export.cases import BLANK, SEED, frames, requests
from agvas_export.planted import Plantable
from agvas_runtime.bundle import Bundle
from agvas_runtime.errors import InputError
from agvas_runtime.maps import AnomalyMap
from agvas_runtime.modes import Mode, Request
from agvas_runtime.result import AnswerKind, Result, Scores, Verdict
from agvas_train.checkpoint import default_checkpoint_path, load_checkpoint
from agvas_train.data.synth import generate

DEFECTIVE = next(made.image for index in count() if (made := generate(SEED, index)).mask.mean() > 0.03)
"""A frame that no model should reject."""
LIMIT = 40
"""Tokens, so that nothing here takes long."""


@pytest.fixture(scope="module")
def plantable(exported, translated, tmp_path_factory):
    checkpoint = load_checkpoint(default_checkpoint_path(), dtype=torch.float32)
    return Plantable(checkpoint, Bundle.open(exported[0]), tmp_path_factory.mktemp("planted"), translated)


def compared(sides, requests, images, limit=LIMIT):
    single, reference = sides
    found = Agreement()
    for request in requests:
        for number, image in enumerate(images):
            written = single.write([image], request, limit)[0]
            found.add(written, reference.write(image, request, limit), f"{request}, frame {number}")
    assert found.check() == []
    return found


def test_the_embedded_models_answers_are_those_of_the_reference_whatever_is_asked(plantable):
    sides = plantable.own()
    images = [DEFECTIVE, *frames(3)]
    asked = requests(sides[0].templates)
    found = compared(sides, asked[::2], images[:1])
    found_odd = compared(sides, asked[:4], images[1:])
    assert found.pairs + found_odd.pairs >= 35
    assert found.anchors > 20
    assert sum(found.departures.values()) > 0  # descriptions leave the trie


@pytest.mark.parametrize(
    ("depth", "goes_on", "nth"),
    [
        (0, " scratch [NOR][ANO][SEG]", 0),
        (1, " scratch [NOR][ANO][SEG]", 0),
        (2, " so [NOR][ANO][SEG] a scratch", 1),
        (4, " so [SEG]", 1),
        (7, " so [SEG]", 2),
        (11, " a scratch", 0),
    ],
)
def test_an_answer_may_leave_the_trie_at_any_depth(plantable, depth, goes_on, nth):
    """Not every answer can be planted: a token that repeats has its followers."""
    answer = plantable.leaving(depth, goes_on, nth)
    found = compared(plantable.plant(answer), [Request(), Request(Mode.EXPLAIN)], frames(3))
    assert found.departures[depth] >= 3
    assert found.kinds[AnswerKind.SEGMENTED.value] >= 3


@pytest.mark.parametrize("answer", ["It looks fine to me.", "Sure, it is not [NOR][ANO][SEG] here.", "[SEG]", "It is"])
def test_answers_that_begin_as_known_ones_do(plantable, answer):
    sides = plantable.plant(answer)
    assert sides[0].write(frames(1), Request())[0].result.answer == answer
    compared(sides, [Request(), Request(class_name="qwzx glorp")], frames(2))


@pytest.mark.parametrize("answer", ["Sure, it is [NOR][ANO][SEG].", "Sure, it is a crack [SEG]."])
def test_the_token_limit_stops_both_at_the_same_token(plantable, answer):
    sides = plantable.plant(answer)
    for limit in range(1, 12):
        compared(sides, [Request()], frames(1), limit)


def test_frames_segmented_together_get_what_they_get_alone(plantable):
    images = frames(6)
    for single, _ in (plantable.own(), plantable.plant("It is [NOR][ANO][SEG] and another [SEG] and another [SEG].")):
        for request in (Request(), Request(Mode.DESCRIBE), Request(Mode.GENERAL, class_name="scratches")):
            found = Agreement()
            for number, together in enumerate(single.write(images, request, LIMIT)):
                found.add(together, single.write([images[number]], request, LIMIT)[0], f"{request}, frame {number}")
            assert found.check() == []


@pytest.mark.parametrize("text", BLANK)
def test_blank_instructions_are_refused_by_both_in_the_same_words(plantable, text):
    single, reference = plantable.own()
    with pytest.raises(InputError) as one:
        single.segment(frames(1)[0], text)
    with pytest.raises(InputError) as other:
        reference.segment(frames(1)[0], text)
    assert str(one.value) == str(other.value)


def written(margin=1.0, pixel=0.7):
    probability = np.full((2, 2), pixel, np.float32)
    scores = Scores.unknown(margin)
    found = AnomalyMap.of(probability)
    result = Result(Verdict.REJECT, "", "answer", AnswerKind.SEGMENTED, found, probability > 0.5, (), scores, {})
    return Written((5, 6), True, np.ones((3, 4)), np.full(3, margin), (((2, 1),),), result)


@pytest.mark.parametrize(
    ("found", "expected", "fault"),
    [
        (written(), written(), ""),
        (replace(written(), tokens=(5, 7)), written(), "token 2 at margin 1"),
        (replace(written(), finished=False), written(), "token 3 at margin 1"),
        (replace(written(), states=np.full((3, 4), 1 + 2 * BOUND)), written(), "state 2 is off by 0.0002"),
        (written(pixel=0.4), written(), "masks differ where the map is 0.2 from the threshold"),
        (written(pixel=0.50005), written(pixel=0.49995), ""),
    ],
)
def test_what_is_past_a_bound_is_a_fault(found, expected, fault):
    agreement = Agreement()
    agreement.add(found, expected, "pair")
    assert [line.removeprefix("pair: ").startswith(fault) for line in agreement.check()] == ([True] if fault else [])


def test_near_ties_are_exceptions_up_to_a_share():
    agreement = Agreement()
    agreement.add(replace(written(), tokens=(5, 7)), written(margin=BOUND / 2), "pair")
    assert (agreement.exceptions, agreement.faults) == (1, [])
    assert agreement.check() == ["1 exceptions in 1 pairs"]
    for _ in range(999):
        agreement.add(written(), written(), "pair")
    assert agreement.check() == []


def test_an_anchors_state_may_be_the_one_that_predicts_it(plantable):
    """The other convention, on both sides."""
    single, reference = plantable.plant("It is [NOR][ANO][SEG] and another [SEG] and another [SEG].")
    usual = single.write(frames(1), Request())[0].result
    single.manifest.model.__dict__["anchor_state"] = reference.config.__dict__["anchor_state"] = "predicting"
    try:
        found = compared((single, reference), [Request(), Request(Mode.EXPLAIN)], frames(2))
        assert found.anchors >= 8
        other = single.write(frames(1), Request())[0].result
        assert np.abs(other.probability - usual.probability).max() > 1e-3
    finally:
        single.manifest.model.__dict__["anchor_state"] = reference.config.__dict__["anchor_state"] = "token"
