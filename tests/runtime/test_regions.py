"""Regions equal scipy's labelling with 8-neighbours."""

import numpy as np
import pytest
from scipy import ndimage

from agvas_runtime.regions import find_regions

EIGHT = np.ones((3, 3))


def spiral(side):
    mask = np.zeros((side, side), bool)
    top, left, bottom, right = 0, 0, side - 1, side - 1
    while top <= bottom and left <= right:
        mask[top, left : right + 1] = mask[top : bottom + 1, right] = mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        mask[top + 1, left] = False
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


def comb(side):
    mask = np.zeros((side, side), bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def noise(shape, share, seed):
    return np.random.default_rng(seed).random(shape) < share


MASKS = {
    "noise": noise((120, 90), 0.3, 0),
    "dense noise": noise((90, 120), 0.6, 1),
    "sparse noise": noise((200, 200), 0.01, 2),
    "blobs": ndimage.gaussian_filter(noise((200, 300), 0.5, 3).astype(float), 6) > 0.51,
    "spiral": spiral(41),
    "comb": comb(60),
    "upside down comb": comb(60)[::-1],
    "full": np.ones((20, 30), bool),
    "diagonal": np.eye(30, dtype=bool),
    "antidiagonal": np.eye(30, dtype=bool)[::-1],
    "one pixel in the corner": np.pad(np.ones((1, 1), bool), ((0, 9), (9, 0))),
    "row": np.ones((1, 50), bool),
    "column": np.ones((50, 1), bool),
    "edge to edge rows": np.tile(np.array([[True], [False]]), (10, 30)),
}


@pytest.mark.parametrize("name", MASKS)
def test_equals_scipy(name):
    mask = MASKS[name]
    score = np.random.default_rng(9).random(mask.shape, dtype=np.float32)
    labels, count = ndimage.label(mask, EIGHT)
    expected = {}
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        y, x = ndimage.center_of_mass(labels == index)
        values = score[labels == index]
        box = (columns.start, rows.start, columns.stop, rows.stop)
        expected[(box, values.size, round(x, 6), round(y, 6))] = (values.mean(dtype=np.float64), values.max())
    regions = find_regions(mask, score)
    assert len(regions) == count
    for region in regions:
        key = (region.box, region.area_px, round(region.centroid[0], 6), round(region.centroid[1], 6))
        assert (region.mean_score, region.max_score) == pytest.approx(expected.pop(key), abs=1e-6)
    assert not expected


def test_an_empty_mask_has_no_regions():
    assert find_regions(np.zeros((5, 7), bool), np.zeros((5, 7), np.float32)) == ()


def test_largest_first_and_small_ones_left_out():
    mask = np.zeros((10, 20), bool)
    mask[0, 0] = mask[5:8, 5:9] = mask[2, 10:13] = True
    regions = find_regions(mask, mask.astype(np.float32))
    assert [region.area_px for region in regions] == [12, 3, 1]
    assert [region.area_px for region in find_regions(mask, mask.astype(np.float32), min_area=3)] == [12, 3]


def test_mask_and_map_must_have_one_shape():
    with pytest.raises(ValueError, match="must be the same"):
        find_regions(np.zeros((5, 7), bool), np.zeros((7, 5), np.float32))
