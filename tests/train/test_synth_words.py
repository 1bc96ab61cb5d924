"""The words about synthetic pictures: true of grey ones, of any name, and of one defect among several."""

import random
import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from agvas_runtime.templates import default_templates
from agvas_train.data.conversation import Task, draw_turn
from agvas_train.data.sets.outlines import Painted
from agvas_train.data.sets.sample import SEG_ALONE, Region, Sample, Source
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth.captions import _MEANING, caption
from agvas_train.data.synth.notes import DefectNote, SurfaceNote
from agvas_train.data.synth_turns import APART, SynthTurns, as_sample

TEMPLATES = default_templates()
PLAIN = SurfaceNote("leaf", "leaf", ("grey",), "even veins and colour", grey=True)


def words(surface: SurfaceNote, *kinds: str) -> str:
    """Everything that captions of such defects say, over many draws."""
    notes = tuple(DefectNote(kind, ("dark",), "small", "top", (1, 1, 4, 4), 9) for kind in kinds)
    drawn = [caption(np.random.default_rng(seed), surface, notes) for seed in range(20)]
    fields = ("Expectation", "Observation", "Diagnosis", "Summary", "Explanation")
    return " ".join(getattr(each, field) for each in drawn for field in fields)


def asked(name: str) -> set[str]:
    """The instructions that ask for a region of this name."""
    region = Region((name,), Painted(np.ones((8, 12), np.bool_)))
    sample = Sample((), Source("set", None, 0), SEG_ALONE, (region,))  # type: ignore[arg-type]
    turns = [draw_turn(Task.GENERAL, sample, TEMPLATES, random.Random(seed)) for seed in range(40)]
    return {turn.instruction for turn in turns if turn is not None}


@lru_cache(maxsize=1)
def general() -> tuple[tuple[np.ndarray, object], ...]:
    turns = SynthTurns(TEMPLATES, {Task.GENERAL: 1.0}, SynthConfig(), seed=4)
    return tuple(turns.turn(index) for index in range(40))


@pytest.mark.parametrize("kind", [None, *sorted(_MEANING)])
def test_nothing_is_said_of_colour_where_the_picture_has_none(kind):
    said = words(PLAIN, *([kind] if kind else []))
    assert "colour" not in said
    assert "even veins and tone" in said
    assert "colour" in words(replace(PLAIN, grey=False), *([kind] if kind else []))


def test_without_a_word_for_its_colour_a_surface_has_its_name_alone():
    said = words(replace(PLAIN, colours=()), "stain")
    assert "The leaf should show" in said
    assert "  " not in said


@pytest.mark.parametrize(
    "name", ["man in white", "the man in white", "a man in white", "A man in white", "The man in white"]
)
def test_a_region_is_asked_for_with_one_article(name):
    assert asked(name) == {
        template.replace("{class_name}", "man in white") for template in TEMPLATES.general_instructions
    }


@pytest.mark.parametrize("name", ["a", "anchor", "theatre", "right one"])
def test_a_name_that_only_begins_like_an_article_stays(name):
    assert all(f"the {name} in" in each for each in asked(name))


def test_what_is_shown_has_an_article_whatever_it_is():
    turns = SynthTurns(TEMPLATES, {Task.CONVERSATION: 1.0}, SynthConfig(), seed=4)
    answers = [turns.turn(index)[1].answer for index in range(30)]
    shown = [answer for answer in answers if answer.startswith("The image shows")]
    assert shown
    assert all(re.fullmatch(r"The image shows the [a-z ]+\.", answer) for answer in shown)


def test_parts_are_asked_for_in_sound_pictures_only():
    for index in range(60):
        made = generate(4, index, SynthConfig())
        names = {phrase for region in as_sample(made, 4, index).regions for phrase in region.phrases}
        assert not names & set(made.parts) if made.defects else names == set(made.parts)


def test_a_defect_asked_for_is_far_from_the_others_and_has_its_own_mask():
    found = 0
    for index in range(120):
        made = generate(4, index, SynthConfig(normal_share=0))
        if not made.defects:  # none could be painted: its regions are the picture's parts
            continue
        for region in as_sample(made, 4, index).regions:
            (at,) = [at for at, mask in enumerate(made.masks) if mask is region.mask]
            others = [other for other in range(len(made.masks)) if other != at]
            assert all(made.defects[at].place in phrase for phrase in region.phrases)
            assert all(made.defects[other].place != made.defects[at].place for other in others)
            near = round(APART * max(made.mask.shape)) - 1
            rows, columns = np.nonzero(region.mask)
            y, x = max(rows.min() - near, 0), max(columns.min() - near, 0)
            around = np.s_[y : rows.max() + near, x : columns.max() + near]
            assert not any(made.masks[other][around].any() for other in others)
            found += bool(others)
    assert found > 10


def test_general_turns_ask_for_parts_and_for_defects_by_index_alone():
    turns = SynthTurns(TEMPLATES, {Task.GENERAL: 1.0}, SynthConfig(), seed=4)
    for index in (17, 3):
        image, turn = turns.turn(index)
        assert np.array_equal(image, general()[index][0])
        assert turn.instruction == general()[index][1].instruction
    placed = [
        bool(re.search(r"at the (top|bottom|left|right)|in the center", turn.instruction)) for _, turn in general()
    ]
    assert 4 < sum(placed) < 36
    assert all(re.findall(r"\[\w+\]", turn.answer) == ["[SEG]"] for _, turn in general())


def test_a_stream_without_defects_still_has_general_turns():
    turns = SynthTurns(TEMPLATES, {Task.GENERAL: 1.0}, SynthConfig(normal_share=1.0), seed=4)
    assert all(turns.turn(index)[1].mask is not None for index in range(6))
