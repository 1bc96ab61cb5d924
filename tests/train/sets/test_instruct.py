"""Anomaly-Instruct records: JSON Lines of ours, and another shape through a mapping file."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.instruct import Instruct
from tests.train.sets.anomaly_miniatures import TEXTS, instruct_record, merged_set
from tests.train.sets.files import box, text


@pytest.mark.parametrize("name", ["real-iad-instruct", "dtd-instruct"])
def test_a_record_with_and_without_defect(sets, name):
    bad, good = (sets[name].sample(index) for index in range(2))
    assert asdict(bad.caption) == {"exists": True, **TEXTS}
    assert bad.anomaly.present
    assert np.array_equal(bad.anomaly.mask, box(0, 2, 3, 7))
    assert bad.anchors == ("NOR", "ANO", "SEG")
    assert bad.pixels[0].shape == (8, 12, 3)
    assert not good.caption.exists
    assert good.anomaly.mask is None
    assert good.anchors == ()
    counts = sets[name].describe()
    assert (counts.samples, counts.masks, counts.normal, counts.anomalous, counts.classes) == (2, 1, 1, 1, 1)


def test_a_mapping_reads_another_shape_as_the_same_sample(sets):
    sample = sets["goodsad-instruct"].sample(0)
    assert asdict(sample.caption) == {"exists": True, **TEXTS}
    assert sample.anomaly.category == "drink_can"
    assert np.array_equal(sample.anomaly.mask, box(0, 2, 3, 7))
    assert sample.pixels[0].shape == (8, 12, 3)


def written(tmp_path, *, mapping=None, **changed):
    merged_set(tmp_path, "DTD", "w")
    file = text(tmp_path / "x.jsonl", json.dumps(instruct_record("DTD", "w", True) | changed))
    if mapping is not None:
        text(tmp_path / "x.mapping.yaml", mapping)
    return Instruct("x", file, tmp_path / "anomaly_seg")


def test_records_of_ours_are_below_the_folder_of_their_own_set(tmp_path):
    """`agvas-data instruct` of a set in MVTec's layout writes the image's path within the set, and the set's name."""
    record = instruct_record("DTD", "w", True)
    inside = {field: record[field].removeprefix("DTD/") for field in ("image", "mask")}
    found = written(tmp_path, dataset="DTD", **inside).sample(0)
    assert np.array_equal(found.anomaly.mask, box(0, 2, 3, 7))
    assert np.array_equal(written(tmp_path / "b", dataset="DTD").sample(0).anomaly.mask, found.anomaly.mask)
    with pytest.raises(InputError, match=r"found the path '\.\.', expected one below"):
        written(tmp_path / "c", dataset="..", **inside).sample(0)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"Summary": "A pit, [SEG]."}, r"Summary: found no \[NOR\]\[ANO\]\[SEG\]"),
        ({"exists": "true"}, "exists: found 'true', expected true or false"),
        ({"Diagnosis": None}, "Diagnosis: found NoneType, expected a text"),
        ({"image": "/etc/passwd"}, "found the path '/etc/passwd', expected one below"),
        ({"mask": ""}, "found the path '', expected one below"),
        ({"image": 3}, "not as its format says"),
        ({"dataset": "x" * 6000}, r"File name too long: '.{50,60}\.\.\.$"),
    ],
)
def test_a_broken_record_is_an_error_that_names_it(tmp_path, changed, fault):
    with pytest.raises(InputError, match=f"x.jsonl, record 0: {fault}"):
        written(tmp_path, **changed).sample(0)


def test_a_byte_that_is_no_utf_8_is_the_fault_of_its_record_alone(tmp_path):
    adapter = written(tmp_path)
    line = adapter.file.read_bytes()
    adapter.file.write_bytes(b"\n".join([line, line.replace(b"dark", b"d\xe4rk"), line]))
    adapter.read_lists()
    assert len(adapter) == 3
    assert adapter.sample(0).caption == adapter.sample(2).caption
    with pytest.raises(InputError, match=r"x.jsonl: found no UTF-8 in the element at bytes \d+ to \d+ \('utf-8' codec"):
        adapter.sample(1)
    assert [len(adapter.half(anomalous=which)) for which in (True, False)] == [3, 0]
    counts = adapter.describe()
    assert (counts.samples, counts.normal, counts.anomalous) == (3, 0, 2)


@pytest.mark.parametrize(
    ("mapping", "fault"),
    [
        ("fields: {picture: a}", r"x.mapping.yaml: fields.picture"),
        ("records: {", "x.mapping.yaml: found no YAML"),
        ("records: a\nrecords: b", "x.mapping.yaml: found no YAML of plain values .line 2, .*'records' stands twice"),
        ("field: {}", "x.mapping.yaml: field: Extra inputs are not permitted"),
        ("fields: {category: cls.name}", "x.jsonl, record 0: found no 'cls', expected it"),
        ("records: data", "x.jsonl: found no 'data', expected it"),
        ("records: Summary", "x.jsonl: found str at 'Summary', expected a list of records"),
    ],
)
def test_a_broken_mapping_is_an_error_that_names_the_file(tmp_path, mapping, fault):
    with pytest.raises(InputError, match=fault):
        written(tmp_path, mapping=mapping).sample(0)
