"""Anomaly sets: both schemas of meta.json, folders, VisA's csv; placeholders, folder masks, no normal images."""

import numpy as np
import pytest

from agvas_runtime.datasets import load_dataset, load_mask
from agvas_runtime.errors import InputError
from agvas_train.data.sets.anomaly import AnomalySet
from tests.train.sets.anomaly_miniatures import merged_set, visa_split
from tests.train.sets.files import array, box, text

MERGED = ["real-iad", "dtd-synthetic", "goodsad", "road", "gc10", "zju-leaper", "ksdd2", "rsdd", "dagm"]


@pytest.mark.parametrize("name", MERGED)
def test_bayes_pfl_s_schema_without_its_placeholders(sets, name):
    adapter = sets[name]
    assert len(adapter) == 4
    samples = [adapter.sample(index) for index in range(4)]
    assert [sample.anomaly.present for sample in samples] == [False, False, True, True]
    assert [sample.anomaly.kind for sample in samples] == ["good", "good", "anomaly", "anomaly"]
    assert len({sample.anomaly.category for sample in samples}) == 1
    for normal in samples[:2]:
        assert normal.anomaly.mask is None
        assert normal.anchors == ()
    for number, anomalous in enumerate(samples[2:]):
        assert np.array_equal(anomalous.anomaly.mask, box(number, number + 2, 3, 7))
        assert anomalous.anchors == ("NOR", "ANO", "SEG")
        assert anomalous.pixels[0].shape == (8, 12, 3)


def test_a_mask_that_is_a_folder_means_no_pixel_labels(sets):
    sample = sets["miad"].sample(2)
    assert sample.anomaly.present
    assert sample.anomaly.mask is None
    assert sample.anchors == ()
    assert sets["miad"].describe().masks == 0


@pytest.mark.parametrize("name", ["isic", "clinicdb", "colondb"])
def test_sets_without_normal_images(sets, name):
    counts = sets[name].describe()
    assert (counts.normal, counts.anomalous) == (0, 2)


def test_anomalyclip_s_schema_serves_its_test_list_alone(sets):
    good, bad = (sets["btad"].sample(index) for index in range(2))
    assert len(sets["btad"]) == 2
    assert not good.anomaly.present
    assert bad.anomaly.kind == "ko"
    assert np.array_equal(bad.anomaly.mask, box(0, 1, 0, 12))  # its mask holds 1, not 255


def test_plain_folders(sets):
    bad, good = (sets["mvtec"].sample(index) for index in range(2))
    assert (bad.anomaly.category, bad.anomaly.kind) == ("bottle", "broken_large")
    assert np.array_equal(bad.anomaly.mask, box(2, 4, 0, 5))
    assert not good.anomaly.present


def test_visa_s_csv_takes_split_test_and_every_number_of_a_mask(sets):
    normal, bad = (sets["visa"].sample(index) for index in range(2))
    assert len(sets["visa"]) == 2
    assert not normal.anomaly.present
    assert bad.anomaly.category == "candle"
    assert np.array_equal(bad.anomaly.mask, box(0, 2, 0, 2) | box(4, 6, 4, 6))


def test_training_and_evaluation_read_the_same_truth(root, sets):
    items = load_dataset(root / "anomaly_seg/RealIADC1").items
    for index, item in enumerate(items):
        sample = sets["real-iad"].sample(index)
        assert sample.images == (item.image,)
        assert sample.anomaly.present == item.anomalous
        if sample.anomaly.mask is not None:
            assert np.array_equal(sample.anomaly.mask, load_mask(item, (8, 12)))


def test_evaluation_reads_visa_s_csv_as_it_is_downloaded(root, sets):
    normal, bad = load_dataset(root / "anomaly_seg/visa").items
    assert (normal.anomalous, normal.kind, bad.kind, bad.category) == (False, "good", "anomaly", "candle")
    assert np.array_equal(load_mask(bad, (8, 12)), sets["visa"].sample(1).anomaly.mask)


def test_the_halves_for_drawing_both_alike(sets):
    anomalous, normal = (sets["real-iad"].half(anomalous=which) for which in (True, False))
    assert [anomalous.sample(index).source.index for index in range(len(anomalous))] == [2, 3]
    assert [normal.sample(index).anomaly.present for index in range(len(normal))] == [False, False]


def test_files_that_are_not_there_are_errors_of_their_samples(tmp_path):
    merged_set(tmp_path, "KSDD2", "k")
    folder = tmp_path / "anomaly_seg/KSDD2"
    (folder / "k/test/good/000.bmp").unlink()
    (folder / "k/ground_truth/anomaly/001.png").unlink()
    adapter = AnomalySet("ksdd2", folder)
    with pytest.raises(InputError, match=r"good/000.bmp: No such file"):
        _ = adapter.sample(0).pixels
    with pytest.raises(InputError, match=r"anomaly/001.png: No such file"):
        adapter.sample(3)
    assert adapter.sample(2).anomaly.mask is not None


def test_a_mask_of_another_size_is_an_error_that_names_it(tmp_path):
    merged_set(tmp_path, "KSDD2", "k")
    array(tmp_path / "anomaly_seg/KSDD2/k/ground_truth/anomaly/000.png", np.zeros((12, 8), np.uint8))
    with pytest.raises(InputError, match=r"000.png: the mask is 8 x 12, its image .*000.bmp 12 x 8; must be the same"):
        AnomalySet("ksdd2", tmp_path / "anomaly_seg/KSDD2").sample(2)
    visa_split(tmp_path)
    array(tmp_path / "candle/Data/Masks/Anomaly/000.png", np.zeros((12, 8), np.uint8))
    with pytest.raises(InputError, match=r"000.png: the mask is 8 x 12, its image .*000.JPG 12 x 8"):
        AnomalySet("visa", tmp_path).sample(1)


def test_a_folder_without_a_list_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"found no test images, expected meta\.json"):
        len(AnomalySet("x", tmp_path))
    text(tmp_path / "split_csv/1cls.csv", "object,split\ncandle,test\n")
    with pytest.raises(InputError, match=r"1cls.csv: not a data set's list \(no field 'image'\)"):
        len(AnomalySet("y", tmp_path))
