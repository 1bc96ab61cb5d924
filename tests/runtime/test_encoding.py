"""Masks and maps as bytes and back. COCO's run lengths are what pycocotools writes, byte for byte."""

import numpy as np
import pytest
from pycocotools import mask as coco
from scipy import ndimage

from agvas_runtime import encoding
from agvas_runtime.encoding import mask_from_rle, mask_to_rle
from agvas_runtime.errors import InputError


def noise(size, share, seed=0):
    return np.random.default_rng(seed).random(size) < share


def written_by_pycocotools(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


SIZES = [(1, 1), (1, 17), (17, 1), (2, 2), (5, 7), (64, 48), (33, 200)]
SHARES = [0.0, 0.01, 0.1, 0.5, 0.9, 1.0]
LARGE = {
    "a blob in three megapixels": np.hypot(*(np.mgrid[:1500, :2000] - 700)) < 300,
    "its complement": np.hypot(*(np.mgrid[:1500, :2000] - 700)) >= 300,
    "full": np.ones((1500, 2000), bool),
    "empty": np.zeros((1500, 2000), bool),
    "the last pixel alone": np.pad(np.ones((1, 1), bool), ((1499, 0), (1999, 0))),
    "noise": noise((400, 500), 0.5),
    "blobs": ndimage.gaussian_filter(noise((400, 500), 0.5).astype(float), 6) > 0.505,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", SHARES)
def test_run_lengths_are_those_of_pycocotools_and_come_back_as_the_mask(size, share):
    for seed in range(20):
        mask = noise(size, share, seed)
        written = mask_to_rle(mask)
        assert written == written_by_pycocotools(mask)
        np.testing.assert_array_equal(mask_from_rle(written, size), mask)


@pytest.mark.parametrize("name", LARGE)
def test_run_lengths_of_large_masks_are_those_of_pycocotools(name):
    mask = LARGE[name]
    written = mask_to_rle(mask)
    assert written == written_by_pycocotools(mask)
    np.testing.assert_array_equal(mask_from_rle(written, mask.shape), mask)


def test_a_mask_that_is_part_of_a_larger_array_is_written_as_it_looks():
    whole = noise((60, 80), 0.3)
    for part in (whole[::2, 5:50], whole.T, whole[::-1]):
        assert mask_to_rle(part) == written_by_pycocotools(part)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "found no run lengths"),
        (b"\x00", "found no run lengths"),
        ("ä".encode(), "found no run lengths"),
        (b"P", "found no run lengths"),  # says that a character follows
        (b"h" * 8 + b"0", "found a run length of 9 characters, expected 7 at most"),
        (mask_to_rle(np.ones((3, 4), bool)), "found run lengths of another size, expected 3 x 5 pixels"),
        (mask_to_rle(np.ones((3, 6), bool)), "found run lengths of another size, expected 3 x 5 pixels"),
        (b"O?", "found run lengths of another size"),  # a run of -1
    ],
)
def test_bytes_that_are_no_run_lengths_of_the_size_are_refused(data, found):
    with pytest.raises(InputError, match=found):
        mask_from_rle(data, (3, 5))


def test_what_comes_back_is_in_rows():
    assert mask_from_rle(mask_to_rle(noise((30, 40), 0.4)), (30, 40)).flags.c_contiguous


def test_a_half_map_is_the_map_rounded_to_eleven_bits(rng):
    probability = rng.random((37, 53), dtype=np.float32)
    probability[0, :4] = 0, 1, 0.5, 1e-5
    data = encoding.probability_to_float16(probability)
    assert len(data) == 2 * probability.size
    assert data[:6] == bytes([0, 0, 0, 0x3C, 0, 0x38])  # little-endian 0, 1, 0.5
    back = encoding.probability_from_float16(data, (37, 53))
    assert back.dtype == np.float32
    assert ((back >= 0) & (back <= 1)).all()
    assert (np.abs(back - probability) <= np.maximum(probability * 2**-11, 2**-25)).all()


@pytest.mark.parametrize("write", [encoding.mask_to_png, encoding.mask_to_bits])
def test_the_other_formats_come_back_as_the_mask(write):
    for size in SIZES:
        mask = noise(size, 0.4)
        data = write(mask)
        back = encoding.mask_from_png(data) if write is encoding.mask_to_png else encoding.mask_from_bits(data, size)
        np.testing.assert_array_equal(back, mask)
