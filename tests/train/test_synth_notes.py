"""Masks and colour words of synthetic samples are those of the picture that is shown."""

from dataclasses import replace

import numpy as np

from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth.colours import colour_word
from agvas_train.data.synth.compose import render

SMALL = SynthConfig(usual_sides=(96, 128), max_side=128)


def test_every_defect_has_its_mask():
    for index in range(40):
        sample = generate(9, index, replace(SMALL, normal_share=0.2))
        assert len(sample.masks) == len(sample.defects)
        for note, mask in zip(sample.defects, sample.masks, strict=True):
            assert mask.sum() == note.area_px
            assert not (mask & ~sample.mask).any()


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
