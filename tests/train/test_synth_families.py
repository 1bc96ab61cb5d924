"""What training draws and what it never does."""

import pytest

from agvas_train.data.synth import Families, SynthConfig, generate
from agvas_train.data.synth.captions import _MEANING
from agvas_train.data.synth.defects import EVERYWHERE, HELD_OUT, PAINTERS

HELD_OUT_KINDS = {"knitted", "perforated", "stone"}


def drawn(families, count=150):
    samples = [generate(5, index, SynthConfig(families=families)) for index in range(count)]
    return {sample.surface.kind for sample in samples}, {note.kind for each in samples for note in each.defects}


def test_training_never_draws_what_is_held_out():
    surfaces, defects = drawn(Families.TRAINING)
    assert not surfaces & HELD_OUT_KINDS
    assert not defects & HELD_OUT
    assert len(surfaces) > 8
    assert len(defects) > 10


def test_held_out_families_are_that_and_nothing_else():
    surfaces, defects = drawn(Families.HELD_OUT)
    assert surfaces == HELD_OUT_KINDS
    assert defects == HELD_OUT


def test_all_families_are_both():
    surfaces, defects = drawn(Families.ALL, 250)
    assert surfaces & HELD_OUT_KINDS
    assert surfaces - HELD_OUT_KINDS
    assert defects & HELD_OUT
    assert defects - HELD_OUT


@pytest.mark.parametrize("kind", sorted(PAINTERS))
def test_captions_know_every_kind(kind):
    assert kind in _MEANING


def test_what_is_named_exists():
    assert set(PAINTERS) >= HELD_OUT | set(EVERYWHERE)
