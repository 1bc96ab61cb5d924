"""Where tiles lie, how rows become bands, how tiles become one mask again."""

from itertools import pairwise

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.frames import as_rgb, grey_of
from agvas_runtime.tiling import Bands, Fusion, Tiling, bands, segment_tiled

TILING = Tiling(32, 24, 8)


def threshold(pixels):
    return pixels[..., 0] > 128, pixels[..., 0].astype(np.float32) / 255


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((15, 32, 0), "tile_height: found 15, expected 16 to 65536"),
        ((32, 70_000, 0), "tile_width: found 70000, expected 16 to 65536"),
        ((32, 24, 13), "overlap: found 13, expected 0 to 12, half of the tile's shorter side"),
        ((32, 24, -1), "overlap: found -1"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_by_name(sizes, text):
    with pytest.raises(InputError, match=text):
        Tiling(*sizes)


def test_the_usual_sizes_fit_each_other():
    assert Tiling.of() == Tiling(512, 512, 64)
    assert Tiling.of(height=100) == Tiling(100, 512, 25)
    assert Tiling.of(width=32, overlap=0) == Tiling(512, 32, 0)


@pytest.mark.parametrize("width", [1, 23, 24, 25, 40, 41, 200])
def test_columns_cover_the_web_and_neighbours_share_the_overlap(width):
    columns = TILING.columns(width)
    assert (columns[0].start, columns[-1].stop) == (0, width)
    assert {each.stop - each.start for each in columns} == {min(width, 24)}
    assert all(left.stop - right.start >= 8 for left, right in pairwise(columns))
    assert len(columns) == max(1, -(-(width - 8) // 16))  # no more tiles than that takes


@pytest.mark.parametrize("height", [1, 31, 32, 33, 56, 57, 300])
@pytest.mark.parametrize("block", [1, 7, 32, 1000])
def test_bands_are_the_section_whatever_its_blocks(height, block):
    image = np.arange(height * 5 * 3, dtype=np.uint64).astype(np.uint8).reshape(height, 5, 3)
    section, found = Bands(TILING, 100), []
    for at in range(0, height, block):
        section.add(image[at : at + block])
        while band := section.take():
            found.append(band)
    if band := section.rest():
        found.append(band)
    assert section.waiting == 0
    assert section.end_row == 100 + height
    assert sum(band.fresh for band in found) == height
    for band in found:
        assert len(band.pixels) == min(height, 32)
        assert np.array_equal(band.pixels, image[band.first_row - 100 :][: len(band.pixels)])
    for one, next_ in pairwise(found):
        shared = one.first_row + len(one.pixels) - next_.first_row
        assert shared == 8 or (next_ is found[-1] and shared > 8)
        assert one.first_row + one.settled <= next_.first_row or next_ is found[-1]


def test_rows_that_are_dropped_are_in_no_band():
    section = Bands(TILING)
    section.add(np.zeros((40, 5, 3), np.uint8))
    assert section.take().fresh == 32
    assert (section.drop(), section.waiting, section.end_row) == (8, 0, 32)
    assert section.rest() is None


def test_a_pixel_is_in_the_mask_where_one_tile_says_so_and_has_the_highest_score():
    fusion = Fusion(4)
    fusion.add(0, slice(0, 3), np.array([[1, 0, 0]], bool), np.array([[0.6, 0.1, 0.2]], np.float32))
    fusion.add(0, slice(1, 4), np.array([[0, 1, 0]], bool), np.array([[0.3, 0.9, 0.1]], np.float32))
    first, mask, score = fusion.settle()
    assert first == 0
    assert mask.tolist() == [[True, False, True, False]]
    assert score.tolist() == [[np.float32(0.6), np.float32(0.3), np.float32(0.9), np.float32(0.1)]]


def test_rows_that_were_handed_out_stay_as_they_are():
    fusion = Fusion(2)
    ones = np.ones((3, 2), bool), np.ones((3, 2), np.float32)
    fusion.add(0, slice(0, 2), ~ones[0], ones[1] * 0)
    assert fusion.settle(2)[0] == 0
    fusion.add(0, slice(0, 2), *ones)
    first, mask, _ = fusion.settle()
    assert (first, mask.tolist()) == (2, [[True, True]])


@pytest.mark.parametrize("size", [(1, 1), (31, 23), (32, 24), (100, 90), (57, 300)])
def test_an_image_in_tiles_gives_what_it_gives_whole(size, rng):
    image = np.repeat(rng.integers(0, 256, (*size, 1), dtype=np.uint8), 3, axis=2)
    mask, score = segment_tiled(image, threshold, TILING)
    assert np.array_equal(mask, threshold(image)[0])
    assert np.array_equal(score, threshold(image)[1])


def test_a_segmenter_sees_tiles_of_one_size():
    seen = set()

    def segment(pixels):
        seen.add(pixels.shape)
        return threshold(pixels)

    segment_tiled(np.zeros((100, 90, 3), np.uint8), segment, TILING)
    assert seen == {(32, 24, 3)}
    assert len([*bands(np.zeros((100, 90, 3), np.uint8), TILING)]) == 4


def test_a_band_of_grey_rows_is_grey(rng):
    grey = rng.integers(0, 256, (40, 16), np.uint8)
    bands = Bands(Tiling(16, 16, 4))
    for rows in (grey[:10], grey[10:30], grey[30:]):
        bands.add(as_rgb(rows))
    first, second = bands.take(), bands.take()
    assert np.array_equal(grey_of(first.pixels), grey[:16])
    assert np.array_equal(grey_of(second.pixels), grey[12:28])
    bands.add(np.ascontiguousarray(as_rgb(grey[:2])))
    third, mixed = bands.take().pixels, bands.rest().pixels
    assert np.array_equal(grey_of(third), grey[24:])
    assert grey_of(mixed) is None
    assert np.array_equal(mixed[..., 1], np.concatenate((grey[26:], grey[:2])))


def test_taking_a_band_copies_nothing_until_its_pixels_are_asked_for():
    bands, rows = Bands(Tiling(16, 16, 4)), np.zeros((40, 16, 3), np.uint8)
    bands.add(rows)
    band = bands.take()
    assert all(np.shares_memory(part, rows) for part in band.parts)
    assert band.pixels.shape == (16, 16, 3)
    assert not np.shares_memory(band.pixels, rows)
