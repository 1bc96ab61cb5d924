"""Maps of ids: ADE20K's shifted ids, COCO-Stuff's ignored names, Mapillary's readable ones."""

import json

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.label_maps import Ade20k, CocoStuff
from tests.train.sets.files import array, bands
from tests.train.sets.miniatures import ade20k, coco_stuff


def by_name(sample):
    return {region.phrases: region for region in sample.regions}


def rows(mask):
    """The rows that are wholly inside; no row may be so in part."""
    assert np.array_equal(mask.any(axis=1), mask.all(axis=1))
    return np.flatnonzero(mask.any(axis=1)).tolist()


def test_ade20k_shifts_its_ids_by_one_and_ignores_what_is_unlabelled(sets):
    assert len(sets["ade20k"]) == 2
    sample = sets["ade20k"].sample(0)
    regions = by_name(sample)
    assert list(regions) == [("wall",), ("flag",)]  # ids 1 and 150
    assert rows(regions["wall",].mask) == [0, 1]
    assert rows(regions["flag",].mask) == [2, 3]
    assert rows(regions["wall",].ignore) == [4, 5, 6, 7]
    assert sample.anchors == ("SEG",)
    assert sample.pixels[0].shape == (8, 12, 3)
    assert sample.pixels[0].dtype == np.uint8


def test_a_map_without_unlabelled_pixels_ignores_none(sets):
    (region,) = sets["ade20k"].sample(1).regions
    assert region.phrases == ("sky",)
    assert region.mask.all()
    assert region.ignore is None


def test_coco_stuff_ignores_names_with_a_hyphen(sets):
    regions = by_name(sets["coco-stuff"].sample(0))
    assert list(regions) == [("person",), ("wood",)]  # ids 0 and 181
    assert rows(regions["person",].mask) == [0, 1]
    assert rows(regions["wood",].mask) == [4, 5]
    assert rows(regions["person",].ignore) == [2, 3, 6, 7]  # "building-other" and 255


def test_mapillary_takes_names_from_its_config_and_ids_from_a_palette(sets):
    regions = by_name(sets["mapillary"].sample(0))
    assert {phrases: rows(region.mask) for phrases, region in regions.items()} == {
        ("bird",): [2, 3],
        ("traffic light",): [0, 1],
    }
    assert rows(regions["bird",].ignore) == [4, 5, 6, 7]


def test_an_id_without_a_name_is_an_error_that_names_the_file(tmp_path):
    ade20k(tmp_path)
    labels = array(tmp_path / "ade20k/annotations/training/ADE_train_1.png", bands(151, rest=0))
    with pytest.raises(InputError, match=r"ADE_train_1.png: found the id 151, expected 0 to 150 or 255"):
        Ade20k("ade20k", tmp_path / "ade20k").sample(0)
    array(labels, np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(InputError, match=r"ADE_train_1.png: found pixels of mode RGB, expected a map of 8-bit ids"):
        Ade20k("ade20k", tmp_path / "ade20k").sample(0)


def test_a_map_of_another_size_than_its_image_is_an_error(tmp_path):
    coco_stuff(tmp_path)
    array(tmp_path / "cocostuff/train2017/000000000009.png", np.zeros((12, 8), np.uint8))
    adapter = CocoStuff("coco-stuff", tmp_path / "cocostuff/train2017", tmp_path / "coco/train2017")
    with pytest.raises(InputError, match=r"000000000009.jpg: found 12 x 8 pixels, expected 8 x 12 as its labels have"):
        _ = adapter.sample(0).pixels


def test_a_config_without_labels_is_an_error(tmp_path):
    from agvas_train.data.sets.label_maps import Mapillary

    (tmp_path / "config_v2.0.json").write_text(json.dumps({"classes": []}))
    with pytest.raises(InputError, match=r"config_v2.0.json: found no 'labels', expected it"):
        Mapillary("mapillary", tmp_path).describe()
