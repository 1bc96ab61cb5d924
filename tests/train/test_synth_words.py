"""What turns and captions say of synthetic pictures: true of the picture that is shown."""

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agvas_train.checkpoint import Checkpoint
from agvas_train.data.conversation import Task, draw_turn
from agvas_train.data.sets.outlines import Painted
from agvas_train.data.sets.sample import SEG_ALONE, Region, Sample, Source
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth.captions import caption, noun, where
from agvas_train.data.synth.colours import colour_word
from agvas_train.data.synth.compose import render
from agvas_train.data.synth.notes import DefectNote, SurfaceNote
from agvas_train.data.synth_turns import SynthTurns, as_sample

SMALL = SynthConfig(usual_sides=(96, 128), max_side=128)
NOTE = DefectNote("colour fault", ("dark",), "small", "center", (40, 40, 50, 50), 100)


def general_turns(checkpoint: Checkpoint, config: SynthConfig, count: int):
    turns = SynthTurns(checkpoint.templates, {Task.GENERAL: 1.0}, config, 4)
    return [turns.turn(index) for index in range(count)]


def test_every_defect_has_its_mask():
    for index in range(40):
        sample = generate(9, index, replace(SMALL, normal_share=0.2))
        assert len(sample.masks) == len(sample.defects)
        for note, mask in zip(sample.defects, sample.masks, strict=True):
            assert mask.sum() == note.area_px
            assert not (mask & ~sample.mask).any()


def test_general_turns_ask_for_parts_of_sound_pictures_and_for_defects_by_their_places(small):
    by_place = re.compile(r"(?:in the center|at the [a-z-]+) in this image")
    asked = [turn.instruction for _, turn in general_turns(small, replace(SMALL, normal_share=0.0), 40)]
    places = sum(bool(by_place.search(instruction)) for instruction in asked)
    assert 8 <= places <= 32
    names = [instruction for instruction in asked if not by_place.search(instruction)]
    assert any("background" in name or "part" in name or "copper" in name for name in names)


def test_a_defect_that_is_asked_for_is_the_one_that_is_taught(small):
    found = 0
    for index in range(60):
        made = generate(4, index, replace(SMALL, normal_share=0.0))
        regions = as_sample(made, 4, index).regions
        if not made.defects:
            continue
        for region in regions:
            (name,) = region.phrases
            matching = [
                mask
                for note, mask in zip(made.defects, made.masks, strict=True)
                if name == f"{noun(note.kind)} {where(note.place)}"
            ]
            assert len(matching) == 1
            assert np.array_equal(region.mask, matching[0])
            found += len(made.defects) > 1
    assert found >= 10


@pytest.mark.parametrize("phrase", ["a man in white", "the man in white", "An apple", "apple", "theatre", "a"])
def test_names_of_regions_lose_their_article(small, phrase):
    mask = np.ones((8, 8), np.bool_)
    sample = Sample(images=(), source=Source("set", Path(), 0), anchors=SEG_ALONE)
    sample = replace(sample, regions=(Region((phrase,), Painted(mask)),))
    turn = draw_turn(Task.GENERAL, sample, small.templates, random.Random(0))
    expected = {"a man in white": "man in white", "the man in white": "man in white", "An apple": "apple"}
    assert f"the {expected.get(phrase, phrase)} in this image" in turn.instruction


def test_pictures_without_colours_are_spoken_of_without_colours():
    rng = np.random.default_rng(0)
    surface = SurfaceNote("cloth", "woven", ("grey",), "a regular weave", grey=True)
    assert "colour from" not in caption(rng, surface, (NOTE,)).Explanation
    assert "tone" in caption(rng, surface, (NOTE,)).Explanation
    assert "colour from" in caption(rng, replace(surface, grey=False), (NOTE,)).Explanation


def test_scans_have_no_colour_word():
    scans = [index for index in range(400) if render(6, index, SMALL).scene.harsh]
    assert scans
    for index in scans:
        sample = generate(6, index, SMALL)
        assert sample.surface.colours == ()
        assert "  " not in sample.caption.Expectation


def test_the_colour_word_is_that_of_the_picture():
    told = 0
    for index in range(60):
        sample = generate(12, index, replace(SMALL, normal_share=1.0))
        if sample.parts or not sample.surface.colours or render(12, index, SMALL).scene.body is not None:
            continue
        (word,) = sample.surface.colours
        assert word == colour_word(sample.image[::3, ::3].reshape(-1, 3).mean(axis=0, dtype=np.float32) / 255)
        told += 1
    assert told >= 10


def test_sentences_about_what_is_shown_have_an_article(small):
    turns = SynthTurns(small.templates, {Task.CONVERSATION: 1.0}, SMALL, 5)
    answers = [turns.turn(index)[1].answer for index in range(30)]
    shown = [answer for answer in answers if answer.startswith("The image shows")]
    assert shown
    assert all(answer.startswith("The image shows the ") for answer in shown)
