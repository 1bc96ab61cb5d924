"""One matrix product equals torch's two bilinear steps."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from torch.nn import functional

from agvas_runtime.maps import AnomalyMap, binarise, made_steps, merged, window
from agvas_runtime.preprocess import PixelView
from agvas_runtime.regions import find_regions


@pytest.mark.parametrize(
    ("cells", "canvas", "resized", "size"),
    [
        (64, 256, (256, 256), (256, 256)),
        (64, 256, (100, 256), (313, 800)),
        (64, 256, (256, 171), (90, 60)),
        (64, 256, (1, 256), (1, 900)),
        (256, 1024, (1024, 683), (1500, 1000)),
        (32, 128, (128, 128), (1, 1)),
    ],
)
def test_equals_torch_in_two_steps(cells, canvas, resized, size):
    p = np.random.default_rng(0).random((cells, cells), dtype=np.float32)
    step = functional.interpolate(torch.from_numpy(p)[None, None], (canvas, canvas), mode="bilinear")
    expected = functional.interpolate(step[..., : resized[0], : resized[1]], size, mode="bilinear")[0, 0].numpy()
    got = AnomalyMap(p, canvas, resized, size).whole
    assert got.dtype == np.float32
    assert got.shape == size
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (63, 64), (65, 900), (1500, 1000), (4097, 33), (33, 4097)])
def test_bands_give_what_the_whole_product_does_whoever_computes_them(size, rng):
    """But for rounding: libraries sum a shorter row in an order of its own. Threads change no bit."""
    p = rng.random((72, 72), np.float32)
    resized = PixelView(size=288, mean=(0, 0, 0), std=(1, 1, 1)).resized(*size)
    rows, columns = (made_steps(72, 288, *axis).matrix for axis in zip(resized, size, strict=True))
    expected = np.minimum(rows @ (p @ columns.T), 1)
    whole, shared = (AnomalyMap(p, 288, resized, size) for _ in range(2))
    np.testing.assert_allclose(whole.whole, expected, rtol=0, atol=1e-6)
    with ThreadPoolExecutor(3) as hands:
        shared.fill(hands)
    np.testing.assert_array_equal(shared.whole, whole.whole)


@pytest.mark.parametrize(("roi", "outside"), [(None, 0), ((10, 70, 300, 400), 2), ((40, 100, 41, 101), 7)])
@pytest.mark.parametrize("threshold", [0, 0.5, 0.8, 1])
def test_a_mask_and_its_regions_need_no_more_of_the_map_than_could_be_above(threshold, roi, outside, rng):
    """So many of the image's eight bands of rows lie outside the region of interest."""
    p = rng.random((72, 72), np.float32) * 0.2
    p[30:34, 20:50], p[60, 5] = 0.9, 0.8
    found, whole = (AnomalyMap(p, 288, (288, 211), (500, 366), roi) for _ in range(2))
    expected = whole.whole > np.float32(threshold)
    with ThreadPoolExecutor(3) as hands:
        mask = found.above(threshold, hands)
    np.testing.assert_array_equal(mask, expected)
    assert found.regions(mask) == find_regions(expected, whole.whole)
    assert len(found._left) == outside if threshold == 0 else len(found._left) > outside
    np.testing.assert_array_equal(found.whole, whole.whole)
    np.testing.assert_array_equal(AnomalyMap.of(whole.whole).above(threshold), expected)
    outside = np.ones((500, 366), bool)
    outside[window(roi, (500, 366))] = False
    assert not found.whole[outside].any()


def test_who_has_the_whole_map_keeps_it_while_others_ask_for_it(rng):
    """Two that ask first at a time: neither sees what the other one computes."""
    cells, roi = rng.random((64, 64), np.float32), (100, 100, 1500, 2000)
    expected = AnomalyMap(cells, 256, (256, 213), (2400, 2000), roi).whole
    for _ in range(4):
        found, both = AnomalyMap(cells, 256, (256, 213), (2400, 2000), roi), Barrier(2)
        with ThreadPoolExecutor(2) as two:

            def read(found=found, both=both):
                both.wait()
                return np.array_equal(found.whole, expected)

            assert all(each.result() for each in [two.submit(read) for _ in range(2)])


def test_a_map_that_is_pickled_is_whole(rng):
    found = AnomalyMap(rng.random((64, 64), np.float32), 256, (256, 200), (300, 234))
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.whole, found.whole)
    assert again.size == (300, 234)


def test_what_rounding_lifts_above_the_threshold_is_in_the_mask():
    """The weights of a pixel may sum to a little more than 1: cells at the threshold are above it here and there."""
    cells, size = np.full((64, 64), 0.7, np.float32), (731, 936)
    threshold, whole = float(cells[0, 0]), AnomalyMap(cells, 256, (200, 256), size).whole
    assert (whole > cells[0, 0]).any()
    np.testing.assert_array_equal(AnomalyMap(cells, 256, (200, 256), size).above(threshold), whole > cells[0, 0])


def test_maps_of_several_groups_merge_to_their_maximum_and_the_only_one_is_taken_as_it_is():
    one, other = np.eye(3, dtype=np.float32), np.full((3, 3), 0.5, np.float32)
    maps = [AnomalyMap.of(each) for each in (one, other)]
    assert merged(maps[:1], (3, 3)) is maps[0]
    np.testing.assert_array_equal(merged(maps, (3, 3)).whole, np.maximum(one, other))
    nothing = merged([], (3, 4))
    assert nothing.size == (3, 4)
    assert not nothing.above(0).any()
    assert nothing.regions(nothing.above(0)) == ()
    np.testing.assert_array_equal(nothing.whole, np.zeros((3, 4), np.float32))


def test_stays_within_zero_and_one():
    ones = AnomalyMap(np.ones((64, 64), np.float32), 256, (200, 256), (731, 936)).whole
    assert ones.max() <= 1
    assert ones.min() >= 1 - 1e-6


def test_refuses_a_crop_larger_than_the_canvas_and_a_map_that_is_not_square():
    with pytest.raises(ValueError, match="canvas of 256"):
        AnomalyMap(np.ones((64, 64), np.float32), 256, (257, 256), (10, 10))
    with pytest.raises(ValueError, match="square"):
        AnomalyMap(np.ones((64, 32), np.float32), 256, (256, 256), (10, 10))


def test_the_mask_is_strictly_above_the_threshold():
    values = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.49]], np.float32)
    np.testing.assert_array_equal(binarise(values, 0.5), [[False, True, False]])
