"""Every adapter alike: lazy, the same in any order and process; and how unreadable samples are passed over."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.adapter import Subset, Tolerant
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


@pytest.fixture
def damaged(tmp_path):
    """Ten images, of which 2, 3 and 9 cannot be read: two images, one mask."""
    merged_set(tmp_path, "Road", "road", normal=8)
    folder = tmp_path / "anomaly_seg/Road/road"
    for number in (2, 3):
        path = folder / f"test/good/{number:03d}.bmp"
        path.write_bytes(path.read_bytes()[:100])
    (folder / "ground_truth/anomaly/001.png").write_bytes(b"no image")
    return AnomalySet("road", tmp_path / "anomaly_seg/Road")


def test_an_unreadable_sample_gives_its_place_to_the_next_readable_one(damaged):
    reports: list[str] = []
    tolerant = Tolerant(damaged, 0.3, reports.append)
    taken = [tolerant.sample(index).source.index for index in (*range(10), 9, 2)]
    assert taken == [0, 1, 4, 4, 4, 5, 6, 7, 8, 0, 0, 4]
    assert [report.split(": ")[:2] for report in reports] == [[f"road {at}", "passed over"] for at in (2, 3, 9)]
    assert "002.bmp" in reports[0]
    assert "001.png" in reports[2]


def test_every_process_sees_the_same_stream_whatever_it_saw_before(damaged):
    whole = [Tolerant(damaged, 5, lambda _: None).sample(index).source.index for index in range(10)]
    late = Tolerant(damaged, 5, lambda _: None)
    assert [late.sample(index).source.index for index in (9, 7, 5, 3)] == [whole[index] for index in (9, 7, 5, 3)]


@pytest.mark.parametrize(("limit", "most"), [(2, 2), (0.2, 2), (0.29, 2), (0, 0)])
def test_more_unreadable_samples_than_the_limit_are_an_error(damaged, limit, most):
    tolerant = Tolerant(damaged, limit, lambda _: None)
    expected = f"road: found {most + 1} unreadable samples of 10, expected {most} at most; the last: .*"
    with pytest.raises(InputError, match=expected):
        [tolerant.sample(index) for index in range(10)]
    assert len(tolerant.broken) == most + 1


def test_a_part_without_a_readable_sample_is_an_error_and_no_endless_search(damaged):
    part = Tolerant(Subset(damaged, [2, 3]), 9, lambda _: None)
    with pytest.raises(InputError, match="road: found no readable sample among 2"):
        part.sample(0)


def test_replacements_within_a_half_are_of_its_kind(damaged):
    normal = Tolerant(damaged.half(anomalous=False), 9, lambda _: None)
    assert [normal.sample(index).source.index for index in range(8)] == [0, 1, 4, 4, 4, 5, 6, 7]


def test_the_miniatures_can_be_written_by_hand(tmp_path: Path):
    command = [sys.executable, "-m", "tests.train.sets.miniatures", str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == 0
    assert list(open_sets(tmp_path)) == list(REGISTRY)
