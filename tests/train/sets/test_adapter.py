"""Every adapter alike: lazy, the same in any order and process."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.anomaly import AnomalySet
from agvas_train.data.sets.registry import REGISTRY, Group, open_sets
from tests.train.sets.anomaly_miniatures import merged_set


def told(sample):
    """All that a sample says, as one comparable value."""
    return (
        sample.images,
        str(sample.source),
        sample.anchors,
        [(region.phrases, region.mask.tobytes(), region.explanation) for region in sample.regions],
        sample.anomaly and (sample.anomaly.present, sample.anomaly.kind, np.asarray(sample.anomaly.mask).tobytes()),
        sample.caption,
        sample.conversation,
    )


@pytest.mark.parametrize("name", REGISTRY)
def test_samples_are_the_same_in_any_order_and_in_a_copy(sets, name):
    adapter = sets[name]
    assert adapter.name == name
    forward = [told(adapter.sample(index)) for index in range(len(adapter))]
    copy = pickle.loads(pickle.dumps(adapter))
    assert [told(copy.sample(index)) for index in reversed(range(len(copy)))] == forward[::-1]
    counts = adapter.describe()
    assert counts.samples == len(adapter) > 0
    for index in range(len(adapter)):
        sample = adapter.sample(index)
        assert sample.source.set == name
        assert sample.source.index == index
        assert sample.source.file.exists()
        assert all(pixels.dtype == np.uint8 and pixels.shape[2] == 3 for pixels in sample.pixels)


@pytest.mark.parametrize("name", REGISTRY)
def test_what_the_sets_of_each_group_supervise(sets, name):
    allowed = {
        Group.GENERAL: {("SEG",)},
        Group.INSTRUCT: {("NOR", "ANO", "SEG"), ()},
        Group.SEG: {("NOR", "ANO", "SEG"), ()},
        Group.VQA: {()},
        Group.TEST: {("NOR", "ANO", "SEG"), ()},
    }
    anchors = {sets[name].sample(index).anchors for index in range(len(sets[name]))}
    assert anchors <= allowed[REGISTRY[name].group]


def test_opening_reads_nothing(tmp_path):
    for entry in REGISTRY.values():
        assert entry.open(tmp_path).name == entry.name


def test_images_are_read_only_when_asked_for(tmp_path):
    merged_set(tmp_path, "Road", "road")
    (tmp_path / "anomaly_seg/Road/road/test/good/000.bmp").unlink()
    sample = AnomalySet("road", tmp_path / "anomaly_seg/Road").sample(0)
    with pytest.raises(InputError, match=r"000.bmp: No such file"):
        _ = sample.pixels


def test_table_a_1():
    groups = {group: [e.name for e in REGISTRY.values() if e.group is group and e.in_mixture] for group in Group}
    assert groups == {
        Group.GENERAL: [
            *("ade20k", "coco-stuff", "paco-lvis", "pascal-part", "partimagenet"),
            *("refclef", "refcoco", "refcoco+", "refcocog"),
        ],
        Group.INSTRUCT: ["real-iad-instruct", "dtd-instruct", "goodsad-instruct"],
        Group.SEG: ["real-iad", "dtd-synthetic", "road", "miad", "gc10", "zju-leaper"],
        Group.VQA: ["llava-150k", "webad"],
        Group.TEST: [],
    }


def test_open_sets_names_what_is_wrong(root, tmp_path):
    assert list(open_sets(root, ["gc10", "ade20k"])) == ["gc10", "ade20k"]
    assert open_sets(tmp_path) == {}
    with pytest.raises(InputError, match="'ade20': no such data set; did you mean 'ade20k'"):
        open_sets(root, ["ade20"])
    with pytest.raises(InputError, match="'xyz': no such data set; expected one of ade20k, "):
        open_sets(root, ["xyz"])
    with pytest.raises(InputError, match="coco-stuff: found no cocostuff/train2017, coco/train2017 in "):
        open_sets(tmp_path, ["coco-stuff"])
    with pytest.raises(InputError, match="nowhere: found no folder"):
        open_sets(tmp_path / "nowhere")


def test_no_adapter_imports_torch():
    code = "import sys, agvas_train.data.sets.registry; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_miniatures_can_be_written_by_hand(tmp_path: Path):
    command = [sys.executable, "-m", "tests.train.sets.miniatures", str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == 0
    assert list(open_sets(tmp_path)) == list(REGISTRY)
