"""Referring sets: only split "train", polygons and run lengths; pickles of plain values and no others."""

import os
import pickle

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.refer import Refer, read_plain_pickle
from tests.train.sets.files import SQUARE, box
from tests.train.sets.miniatures import refer


@pytest.mark.parametrize("name", ["refclef", "refcoco", "refcoco+", "refcocog"])
def test_only_images_with_train_references_by_id(sets, name):
    adapter = sets[name]
    assert len(adapter) == 2
    assert [adapter.sample(index).images[0].name for index in range(2)] == [f"{name}_30.jpg", f"{name}_31.jpg"]
    (dog,) = adapter.sample(0).regions  # the reference of split "val" to the same object is left out
    assert dog.phrases == ("a dog", "the left dog")
    assert adapter.sample(0).anchors == ("SEG",)
    assert adapter.sample(0).pixels[0].shape == (8, 12, 3)
    assert adapter.describe().masks == 2


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("refclef", box(0, 2, 0, 3) | box(1, 5, 2, 6), box(0, 2, 0, 3)),
        ("refcoco", box(0, 2, 0, 3) | box(1, 5, 2, 6), box(0, 2, 0, 3)),
        ("refcoco+", box(1, 5, 2, 6), box(0, 2, 0, 3)),
        ("refcocog", box(1, 5, 2, 6), box(0, 0, 0, 0)),  # its second segmentation is []
    ],
)
def test_parts_are_summed(sets, name, first, second):
    for index, expected in enumerate((first, second)):
        assert np.array_equal(sets[name].sample(index).regions[0].mask, expected)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, open, __import__, np.asarray], ids=lambda function: function.__name__
)
def test_a_pickle_that_calls_something_is_refused_and_nothing_is_called(tmp_path, function, protocol):
    witness = tmp_path / "witness"
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([Calls(function, f"touch {witness}")], protocol=protocol))
    with pytest.raises(InputError, match=r"refs\(unc\).p: refused this pickle: it names .* plain values") as fault:
        read_plain_pickle(path)
    assert "\n" not in str(fault.value)
    assert not witness.exists()


def test_a_refused_pickle_stops_the_set_and_not_only_the_reader(tmp_path):
    refer(tmp_path, "refcoco", "unc", [SQUARE, SQUARE, SQUARE])
    (tmp_path / "refer_seg/refcoco/refs(unc).p").write_bytes(pickle.dumps([Calls(os.getcwd)]))
    adapter = Refer("refcoco", tmp_path / "refer_seg/refcoco", "unc", tmp_path)
    with pytest.raises(InputError, match="refused this pickle"):
        len(adapter)


def test_plain_values_of_any_protocol_are_read(tmp_path):
    value = [{"sent": "é", "ids": (1, 2.5, None, True), "more": {1, 2}, "long": 2**70}]
    path = tmp_path / "x.p"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_plain_pickle(path) == value
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'a dog\\xc3\\xa9'\np3\nsa.")  # as Python 2 writes bytes
    assert read_plain_pickle(path) == [{"sent": "a dogé"}]


@pytest.mark.parametrize("data", [b"no pickle", b"\x80\x02]q\x00", b"\x80\x02c"])
def test_a_torn_pickle_is_an_error_that_names_it(tmp_path, data):
    (tmp_path / "x.p").write_bytes(data)
    with pytest.raises(InputError, match=r"x.p: refused this pickle"):
        read_plain_pickle(tmp_path / "x.p")


def test_a_reference_to_an_annotation_that_is_not_there(tmp_path):
    refer(tmp_path, "refcoco", "unc", [SQUARE])
    adapter = Refer("refcoco", tmp_path / "refer_seg/refcoco", "unc", tmp_path)
    with pytest.raises(InputError, match=r"instances.json: image 31: found no 101, expected it"):
        adapter.sample(1)


@pytest.mark.parametrize("missing", ["split", "image_id", "ann_id", "sentences"])
def test_a_list_of_references_that_is_none_is_refused_as_a_whole(tmp_path, missing):
    refer(tmp_path, "refcoco", "unc", [SQUARE, SQUARE, SQUARE])
    path = tmp_path / "refer_seg/refcoco/refs(unc).p"
    listed = pickle.loads(path.read_bytes())
    del listed[0][missing]
    path.write_bytes(pickle.dumps(listed))
    with pytest.raises(InputError, match=rf"refs\(unc\).p: found no '{missing}', expected it"):
        Refer("refcoco", tmp_path / "refer_seg/refcoco", "unc", tmp_path).read_lists()
