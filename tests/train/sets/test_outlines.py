"""Polygons and run lengths, pixel by pixel as pycocotools paints them."""

import numpy as np
import pytest
from pycocotools import mask as peer

from agvas_runtime.errors import InputError
from agvas_train.data.sets.outlines import drawn_polygon, paint, polygon_mask, run_length_mask
from tests.train.sets.files import CORNER, SQUARE, box, runs

SIZE = (8, 12)


def test_a_square_covers_the_pixels_between_its_corners():
    assert np.array_equal(polygon_mask(SQUARE[0], SIZE), box(1, 5, 2, 6))


@pytest.mark.parametrize("corners", [1, 2, 3, 5, 12])
def test_polygons_are_those_of_pycocotools(corners):
    rng = np.random.default_rng(corners)
    for _ in range(60):
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        points = rng.uniform(-0.3, 1.3, (corners, 2)) * (width, height)  # some outside, many crossing themselves
        points = np.repeat(np.where(rng.random() < 0.3, points.round(), points.round(2)), rng.integers(1, 3), axis=0)
        polygon = points.ravel().tolist()
        if len(polygon) < 6:
            polygon = polygon * 3  # pycocotools takes four numbers for a box
        expected = peer.decode(peer.frPyObjects([polygon], height, width))[:, :, 0].astype(bool)
        assert np.array_equal(polygon_mask(polygon, (height, width)), expected), polygon


def test_run_lengths_packed_and_not():
    mask = np.random.default_rng(0).random(SIZE) > 0.5
    packed = peer.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for counts in (packed, packed.decode(), runs(mask)):
        assert np.array_equal(run_length_mask(counts, SIZE), mask)


def test_parts_are_put_together_and_nothing_is_an_empty_mask():
    both = paint([SQUARE + CORNER], SIZE, "x")
    assert np.array_equal(both.mask(), box(1, 5, 2, 6) | box(0, 2, 0, 3))
    lengths = [
        {"size": list(SIZE), "counts": runs(box(1, 5, 2, 6))},
        {"size": [8, 12], "counts": runs(box(7, 8, 0, 1))},
    ]
    assert np.array_equal(paint([lengths], SIZE, "x").mask(), box(1, 5, 2, 6) | box(7, 8, 0, 1))
    assert np.array_equal(paint([lengths[0], CORNER], SIZE, "x").mask(), box(1, 5, 2, 6) | box(0, 2, 0, 3))
    assert not paint([[]], SIZE, "x").mask().any()
    assert both.ignored() is None


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        ([[1, 2, 3]], "polygon of 3 coordinates, expected pairs"),
        ([["a", "b"]], "not as its format says"),
        ({"size": [12, 8], "counts": [96]}, r"found run lengths of \[12, 8\], expected \[8, 12\]"),
        ({"size": [8, 12], "counts": [95]}, "found run lengths of 95 pixels, expected 8 x 12"),
        ({"size": [8, 12], "counts": "0"}, "expected 8 x 12 pixels"),
        ({"counts": [96]}, "found no 'size'"),
    ],
)
def test_what_cannot_be_painted_is_an_error_that_names_its_source(segmentation, fault):
    with pytest.raises(InputError, match=f"^some.json: image 7: .*{fault}"):
        paint([segmentation], SIZE, "some.json: image 7")


def test_a_drawn_polygon_has_its_outline():
    assert np.array_equal(drawn_polygon([[2, 2], [4, 2], [4, 4], [2, 4]], SIZE), box(2, 5, 2, 5))
    assert np.array_equal(drawn_polygon([[3.9, 1.2]], SIZE), box(1, 2, 3, 4))


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), None, 1e8, -1e30])
def test_a_corner_that_is_no_number_or_far_outside_is_refused(corner):
    with pytest.raises(ValueError, match="no number, or beyond"):
        polygon_mask([corner, 2, 20, 2, 20, 20, 2, 20], (30, 30))
