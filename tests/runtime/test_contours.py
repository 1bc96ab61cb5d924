"""Outlines along the pixels' edges: exact, closed, turning as they say, as many as there are regions and holes."""

import numpy as np
import pytest
from scipy import ndimage

from agvas_runtime.contours import corners, fill, trace
from agvas_runtime.errors import InputError
from agvas_runtime.regions import find_regions
from tests.runtime.test_regions import MASKS

EIGHT = np.ones((3, 3))
SIZES = [(1, 1), (1, 12), (12, 1), (2, 2), (3, 3), (4, 7), (20, 30), (61, 47)]
SHARES = [0.0, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0]


def mask_of(*rows):
    return np.array([[sign == "#" for sign in row] for row in rows])


def points(mask):
    return [polygon.tolist() for polygon in trace(mask)]


def area(polygon):
    """Above 0 where an outline runs clockwise on the screen (y grows downwards)."""
    x, y = polygon.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def winding(polygons, size):
    """How often the outlines run round each pixel, clockwise; edge by edge."""
    turns = np.zeros(size, int)
    for polygon in polygons:
        for (x, y), (_, end) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            turns[min(y, end) : max(y, end), x:] += np.sign(y - end)
    return turns


def assert_outlines_of(mask):
    polygons = trace(mask)
    assert corners(mask) == sum(map(len, polygons))
    np.testing.assert_array_equal(fill(polygons, mask.shape), mask)
    np.testing.assert_array_equal(winding(polygons, mask.shape), mask)
    areas = np.array([area(polygon) for polygon in polygons])
    assert areas.sum() == mask.sum()
    assert (areas > 0).sum() == ndimage.label(mask, EIGHT)[1]
    outside = np.pad(~mask, 1, constant_values=True)
    assert (areas < 0).sum() == ndimage.label(outside)[1] - 1
    for polygon in polygons:
        level = polygon[:, 1] == np.roll(polygon[:, 1], -1)
        assert (level != np.roll(level, 1)).all(), "two edges in one line"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
def test_filled_outlines_are_the_mask_and_there_are_as_many_as_regions_and_holes(size, share):
    for seed in range(30):
        assert_outlines_of(np.random.default_rng(seed).random(size) < share)


@pytest.mark.parametrize("name", MASKS)
def test_so_are_those_of_shapes(name):
    assert_outlines_of(MASKS[name])


def test_every_mask_of_three_by_three_pixels():
    for number in range(2**9):
        assert_outlines_of((number >> np.arange(9).reshape(3, 3) & 1).astype(bool))


def test_the_first_pixel_alone_is_what_the_protocol_says():
    assert points(mask_of("#..", "...")) == [[[0, 0], [1, 0], [1, 1], [0, 1]]]


def test_an_outer_outline_runs_clockwise_and_a_hole_the_other_way_round():
    ring = mask_of(".....", ".###.", ".#.#.", ".###.")
    assert points(ring) == [[[1, 1], [4, 1], [4, 4], [1, 4]], [[3, 2], [2, 2], [2, 3], [3, 3]]]


def test_pixels_that_touch_in_a_corner_have_one_outline_as_they_are_one_region():
    falling, rising = mask_of("#.", ".#"), mask_of(".#", "#.")
    assert points(falling) == [[[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [1, 2], [1, 1], [0, 1]]]
    assert points(rising) == [[[1, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 1], [1, 1]]]
    for mask in (falling, rising):
        assert len(find_regions(mask, mask.astype(np.float32))) == 1


def test_holes_that_touch_in_a_corner_are_two():
    mask = mask_of("####", "#.##", "##.#", "####")
    assert [np.sign(area(polygon)) for polygon in trace(mask)] == [1, -1, -1]


def test_the_higher_outline_comes_first_then_the_one_further_left():
    assert [polygon[0] for polygon in points(mask_of("..#..", "#...#", "..#.."))] == [[2, 0], [0, 1], [4, 1], [2, 2]]


def test_the_outlines_of_a_part_of_an_array_are_those_of_a_copy(rng):
    whole = rng.random((40, 50)) < 0.4
    for part in (whole[::2, 3:20], whole.T, whole[::-1, ::-1]):
        assert points(part) == points(part.copy())


def test_points_between_two_turns_change_nothing():
    square = np.array([[1, 1], [2, 1], [3, 1], [3, 2], [3, 3], [1, 3]])
    np.testing.assert_array_equal(fill([square], (4, 4)), mask_of("....", ".##.", ".##.", "...."))


def test_a_polygon_within_another_is_a_hole_whichever_way_it_runs():
    outer, inner = np.array([[0, 0], [3, 0], [3, 3], [0, 3]]), np.array([[1, 1], [2, 1], [2, 2], [1, 2]])
    for hole in (inner, inner[::-1]):
        np.testing.assert_array_equal(fill([outer, hole], (3, 4)), mask_of("###.", "#.#.", "###."))


@pytest.mark.parametrize(
    ("polygon", "found"),
    [
        ([[0, 0], [2, 1], [2, 2], [0, 2]], "found an edge that is neither level nor upright"),
        ([[0, 0], [2, 0], [2, 2], [1, 1]], "found an edge that is neither level nor upright"),
        ([[0, 0], [5, 0], [5, 2], [0, 2]], "found a point outside, expected all within 4 x 3 pixels"),
        ([[0, 0], [4, 0], [4, 4], [0, 4]], "found a point outside, expected all within 4 x 3 pixels"),
        ([[-1, 0], [2, 0], [2, 2], [-1, 2]], "found a point outside"),
        ([[0, 0], [1, 0]], "found one of 2 points, expected at least 4"),
        (np.empty((0, 2), int), "found one of 0 points, expected at least 4"),
    ],
)
def test_a_polygon_that_is_no_outline_of_a_mask_is_refused(polygon, found):
    with pytest.raises(InputError, match=found):
        fill([np.array(polygon)], (3, 4))
