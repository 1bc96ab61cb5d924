"""What is drawn into images A and B."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from agvas_train.data.instruct.pictures import GREEN, boxed, jpeg, painted, shrunk, shrunk_mask
from tests.train.instruct.small_sets import noise


def green(image: np.ndarray) -> np.ndarray:
    return (image == GREEN).all(axis=2)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(90, 120, (40, 50), (60, 80)), (500, 900, (3, 90), (7, 9))]
)
def test_one_box_stands_around_all_defects_and_covers_none(height, width, rows, columns):
    mask = np.zeros((height, width), bool)
    mask[rows[0], columns[0]] = mask[rows[1], columns[1]] = True
    drawn = green(boxed(np.full((height, width, 3), 128, np.uint8), mask))
    assert not (drawn & mask).any() or rows[0] < 10  # there the picture ends
    inside = [np.logical_or.accumulate(each, axis) for axis in (0, 1) for each in (drawn, np.flip(drawn, axis))]
    inside[1], inside[3] = np.flip(inside[1], 0), np.flip(inside[3], 1)
    assert np.logical_and.reduce(inside)[mask].all()


def test_a_box_away_from_the_border_covers_no_defect():
    mask = np.zeros((100, 100), bool)
    mask[40:60, 30:50] = True
    drawn = green(boxed(noise(0, 100), mask))
    assert drawn.any()
    assert not (drawn & mask).any()


def test_a_box_at_the_border_stays_in_the_picture():
    mask = np.zeros((60, 60), bool)
    mask[50:, :5] = True
    drawn = green(boxed(noise(0, 60), mask))
    assert drawn[59, 0]
    assert drawn[48, :6].all()


def test_without_a_defect_nothing_is_drawn():
    image, mask = noise(1), np.zeros((48, 48), bool)
    assert (boxed(image, mask) == image).all()
    assert (painted(image, mask) == image).all()


def test_exactly_the_mask_is_painted():
    image, mask = noise(2), np.random.default_rng(0).random((48, 48)) < 0.2
    drawn = painted(image, mask)
    assert (green(drawn) == mask).all()
    assert (drawn[~mask] == image[~mask]).all()


def test_the_smallest_defect_outlives_shrinking():
    mask = np.zeros((900, 1700), bool)
    mask[333, 1001] = True
    small = shrunk_mask(mask, 64)
    assert small.shape == shrunk(np.zeros((900, 1700, 3), np.uint8), 64).shape[:2] == (34, 64)
    assert small.any()
    assert small.sum() <= 4


def test_a_picture_that_is_small_enough_stays_as_it_is():
    image = noise(3)
    assert shrunk(image, 48) is image


def test_a_line_of_one_pixel_is_still_green_in_the_file():
    mask = np.zeros((48, 48), bool)
    mask[20:30, 20:30] = True
    drawn = boxed(noise(4), mask)
    read = np.asarray(Image.open(BytesIO(jpeg(drawn)))).astype(int)
    line = read[green(drawn)]
    assert (line[:, 1] - line[:, [0, 2]].max(axis=1) > 150).all()
