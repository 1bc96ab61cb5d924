"""Reading what an answer says of a defect: the generator's own captions are read back as they were meant."""

import numpy as np
import pytest

from agvas_train.data.synth import Families, SynthConfig, generate
from tools.said_and_true import Said, read_description, seen


def test_every_caption_of_one_defect_is_read_back() -> None:
    kinds = set()
    for index in range(400):
        made = generate(3, index, SynthConfig(families=Families.ALL, normal_share=0, max_defects=1))
        if len(made.defects) != 1:
            continue
        note = made.defects[0]
        for text in (made.caption.Observation, made.caption.Summary, made.caption.Explanation):
            assert read_description(text) == [Said(note.size, note.kind, note.place)], text
        kinds.add(note.kind)
    assert len(kinds) >= 15


def test_all_defects_of_a_caption_are_read() -> None:
    for index in range(60):
        made = generate(4, index, SynthConfig(normal_share=0))
        told = {Said(note.size, note.kind, note.place) for note in made.defects}
        assert set(read_description(made.caption.Observation)) == told, made.caption.Observation


@pytest.mark.parametrize(
    "text", ["", "Sure, it is [NOR][ANO][SEG].", "The wood has an even grain.", "A small scratch."]
)
def test_what_describes_no_defect_says_nothing(text: str) -> None:
    assert read_description(text) == []


def test_a_mask_is_put_into_the_same_words() -> None:
    mask = np.zeros((90, 90), bool)
    assert seen(mask) is None
    mask[2:12, 70:80] = True
    assert seen(mask) == ("medium-sized", "top-right")
    mask[:] = False
    mask[44:46, 44:46] = True
    assert seen(mask) == ("tiny", "center")
