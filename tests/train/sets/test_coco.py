"""Part sets in COCO JSON, and random access to their files."""

import json

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.coco import CocoParts, part_phrases
from agvas_train.data.sets.json_ranges import elements, records
from tests.train.sets.files import CORNER, SQUARE, box
from tests.train.sets.miniatures import coco_json


@pytest.mark.parametrize(
    ("category", "phrases"),
    [
        ("cup_(drink):handle_(long)", ("cup handle", "the handle of the cup")),
        ("trash_can", ("trash can",)),
        ("aeroplane:left_wing", ("aeroplane left wing", "the left wing of the aeroplane")),
    ],
)
def test_how_a_category_is_spoken(category, phrases):
    assert part_phrases(category) == phrases


def test_a_region_is_all_that_an_image_has_of_a_category(sets):
    paco = sets["paco-lvis"]
    assert len(paco) == 2  # the third image has no annotation
    sample = paco.sample(0)
    assert sample.images[0].name == "000000000009.jpg"  # by id, not as in the file
    can, handle = sample.regions
    assert can.phrases == ("trash can",)
    assert np.array_equal(can.mask, box(1, 5, 2, 6))
    assert handle.phrases == ("cup handle", "the handle of the cup")
    assert np.array_equal(handle.mask, box(1, 5, 2, 6) | box(6, 8, 0, 12))
    assert handle.ignore is None
    assert sample.anchors == ("SEG",)
    (corner,) = paco.sample(1).regions
    assert np.array_equal(corner.mask, box(0, 2, 0, 3))


def test_pascal_part_and_partimagenet(sets):
    (wing,) = sets["pascal-part"].sample(0).regions
    assert wing.phrases == ("aeroplane left wing", "the left wing of the aeroplane")
    assert np.array_equal(wing.mask, box(1, 5, 2, 6))
    sample = sets["partimagenet"].sample(0)
    assert sample.images[0].name == "n0244_é.JPEG"
    assert sample.regions[0].phrases == ("quadruped head", "the head of the quadruped")
    assert np.array_equal(sample.regions[0].mask, box(1, 5, 2, 6))
    assert sample.pixels[0].shape == (8, 12, 3)


def parts(tmp_path, images, annotations, categories=((1, "a:b"),)):
    return CocoParts("parts", coco_json(tmp_path / "train.json", images, annotations, list(categories)), tmp_path)


def test_faults_of_one_image_are_errors_of_that_image(tmp_path):
    images = [(1, "../out.jpg"), (2, "two.jpg"), (4, "four.jpg")]
    adapter = parts(tmp_path, images, [(1, 1, SQUARE), (2, 9, SQUARE), (3, 1, CORNER), (4, 1, CORNER)])
    for index, fault in enumerate(
        ("image 1: found the path '../out.jpg'", "image 2: found no 9, expected it", "image 3: found no 3, expected it")
    ):
        with pytest.raises(InputError, match=f"train.json: {fault}"):
            adapter.sample(index)
    with pytest.raises(InputError, match=r"four.jpg: No such file"):
        _ = adapter.sample(3).pixels


def test_a_size_that_no_image_has_is_the_fault_of_its_image_alone(tmp_path):
    adapter = parts(tmp_path, [(1, "one.jpg"), (2, "two.jpg")], [(1, 1, SQUARE), (2, 1, SQUARE)])
    listed = adapter.annotations.read_text().replace('"height": 8, "width": 12', '"height": 1e6, "width": 1e6', 1)
    adapter.annotations.write_text(listed)
    with pytest.raises(InputError, match=r"image 1: .*found 1000000 x 1000000 pixels, expected at most 200 megapixels"):
        adapter.sample(0)
    assert np.array_equal(adapter.sample(1).regions[0].mask, box(1, 5, 2, 6))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"images": [1,', '{"images": [{"id": 1}]}', '{"images" 1}', '{"a": 1 "b": 2}']
)
def test_what_is_no_coco_json_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"train.json: ") as fault:
        len(CocoParts("parts", path, tmp_path))
    assert "\n" not in str(fault.value)


def test_elements_stand_where_they_are_said_to(tmp_path):
    path = tmp_path / "x.json"
    value = {"info": {"é": [1]}, "empty": [], "list": [{"name": "ü — €"}, "\\u00e9", 3.5, [1, 2]], "last": None}
    for text in (json.dumps(value, ensure_ascii=False), json.dumps(value, indent=2), "\ufeff " + json.dumps(value)):
        path.write_text(text, encoding="utf-8")
        raw = path.read_bytes()
        found = list(elements(path))
        assert [name for name, *_ in found] == ["info", "list", "list", "list", "list", "last"]
        for (_, start, end, said), expected in zip(found[1:5], value["list"], strict=True):
            assert json.loads(raw[start:end]) == said == expected


def test_records_of_a_list_and_of_lines_are_the_same(tmp_path):
    values = [{"a": "é"}, {"b": [1, {"c": "}"}]}, {}]
    listed, lines = tmp_path / "list.json", tmp_path / "lines.jsonl"
    listed.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    lines.write_text("\n".join(json.dumps(each) for each in values) + "\n\n", encoding="utf-8")
    for path in (listed, lines):
        assert [records(path)[index] for index in range(len(records(path)))] == values


def test_a_file_that_was_cut_meanwhile_is_an_error(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('[{"a": 1}, {"b": 2}]')
    found = records(path)
    path.write_text('[{"a": 1}, {"b"')
    assert found[0] == {"a": 1}
    with pytest.raises(InputError, match=r"list.json: changed while in use"):
        found[1]
