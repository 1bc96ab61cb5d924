"""ReasonSeg: two encodings, the largest polygon first, ignored and dropped labels, explanations."""

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.reason import ReasonSeg
from tests.train.sets.files import box, document, picture
from tests.train.sets.miniatures import reason_seg


def test_the_largest_polygon_is_painted_first_and_flags_not_at_all(sets):
    (region,) = sets["reason-seg"].sample(0).regions
    assert region.phrases == ("the dog’s toy",)  # the file is cp1252
    assert not region.is_sentence
    assert np.array_equal(region.mask, box(2, 5, 2, 5))  # listed before the larger one that would hide it
    assert np.array_equal(region.ignore, box(1, 7, 1, 9) & ~box(2, 5, 2, 5))


def test_an_explained_question_is_a_region_of_its_own(sets):
    sample = sets["reason-seg"].sample(1)
    asked, explained = sample.regions
    assert asked.phrases == ("What could burn?", "Where is fuel?")
    assert asked.is_sentence
    assert asked.explanation == ""
    assert asked.ignore is None
    assert explained.phrases == ("What could burn, and why?",)
    assert explained.explanation == "The can holds fuel."
    assert np.array_equal(explained.mask, asked.mask)
    assert sample.anchors == ("SEG",)


def test_other_splits_have_no_explanations(tmp_path):
    reason_seg(tmp_path)
    folder = tmp_path / "reason_seg/ReasonSeg"
    (folder / "train").rename(folder / "val")
    val = ReasonSeg("reason-seg", folder, "val")
    assert [len(val.sample(index).regions) for index in range(len(val))] == [1, 1]


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ({"text": ["x"], "is_sentence": True}, "found no 'shapes', expected it"),
        ({"text": ["x"], "is_sentence": True, "shapes": [{"label": "a", "points": [[1]]}]}, "not as its format says"),
        ({"text": 7, "is_sentence": True, "shapes": []}, r"not as .*text: found '7', expected a list of texts"),
        ({"text": ["x", 7], "is_sentence": True, "shapes": []}, r"not as .*text: found .*, expected a list of texts"),
        ([1], "not as its format says"),
    ],
)
def test_broken_labels_are_an_error_that_names_the_file(tmp_path, labels, fault):
    picture(tmp_path / "train/a.jpg")
    document(tmp_path / "train/a.json", labels)
    with pytest.raises(InputError, match=f"a.json: {fault}"):
        ReasonSeg("reason-seg", tmp_path).sample(0)


def test_a_text_that_stands_alone_is_one_phrase(tmp_path):
    picture(tmp_path / "train/a.jpg")
    document(tmp_path / "train/a.json", {"text": "the dog", "is_sentence": False, "shapes": []})
    assert ReasonSeg("reason-seg", tmp_path).sample(0).regions[0].phrases == ("the dog",)


def test_an_image_without_labels_is_an_error_that_names_the_file(tmp_path):
    picture(tmp_path / "train/a.jpg")
    with pytest.raises(InputError, match=r"a.json: No such file"):
        ReasonSeg("reason-seg", tmp_path).sample(0)
