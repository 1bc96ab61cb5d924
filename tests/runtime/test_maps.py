"""One matrix product equals torch's two bilinear steps."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional

from agvas_runtime.maps import binarise, made_steps, merged, to_image_size
from agvas_runtime.preprocess import PixelView


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
    got = to_image_size(p, canvas, resized, size)
    assert got.dtype == np.float32
    assert got.shape == size
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (63, 64), (65, 900), (1500, 1000), (4097, 33), (33, 4097)])
def test_bands_give_the_bits_of_the_whole_product_whoever_computes_them(size, rng):
    p = rng.random((72, 72), np.float32)
    resized = PixelView(size=288, mean=(0, 0, 0), std=(1, 1, 1)).resized(*size)
    rows, columns = (made_steps(72, 288, *axis).matrix for axis in zip(resized, size, strict=True))
    expected = np.minimum(rows @ (p @ columns.T), 1)
    np.testing.assert_array_equal(to_image_size(p, 288, resized, size), expected)
    with ThreadPoolExecutor(3) as hands:
        np.testing.assert_array_equal(to_image_size(p, 288, resized, size, None, hands), expected)


def test_maps_of_several_groups_merge_to_their_maximum_and_the_only_one_is_taken_as_it_is():
    one, other = np.eye(3, dtype=np.float32), np.full((3, 3), 0.5, np.float32)
    assert merged([one], (3, 3)) is one
    np.testing.assert_array_equal(merged([one, other], (3, 3)), np.maximum(one, other))
    np.testing.assert_array_equal(merged([], (3, 4)), np.zeros((3, 4), np.float32))


def test_stays_within_zero_and_one():
    ones = to_image_size(np.ones((64, 64), np.float32), 256, (200, 256), (731, 936))
    assert ones.max() <= 1
    assert ones.min() >= 1 - 1e-6


def test_refuses_a_crop_larger_than_the_canvas_and_a_map_that_is_not_square():
    with pytest.raises(ValueError, match="canvas of 256"):
        to_image_size(np.ones((64, 64), np.float32), 256, (257, 256), (10, 10))
    with pytest.raises(ValueError, match="square"):
        to_image_size(np.ones((64, 32), np.float32), 256, (256, 256), (10, 10))


def test_the_mask_is_strictly_above_the_threshold():
    values = np.array([[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.49]], np.float32)
    np.testing.assert_array_equal(binarise(values, 0.5), [[False, True, False]])
