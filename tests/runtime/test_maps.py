"""One matrix product equals torch's two bilinear steps."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from agvas_runtime.maps import binarise, to_image_size


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
