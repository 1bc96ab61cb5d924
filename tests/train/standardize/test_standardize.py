"""`agvas-data standardize`: downloads of every test set become what evaluation and training read."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvas_runtime.datasets import load_dataset, load_mask
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.benchmarks import SETS, find_benchmarks
from agvas_runtime.frames import read_image
from agvas_train.data.sets.registry import ANOMALIES, REGISTRY, Group, open_sets
from agvas_train.data.standardize.formats import FORMATS
from agvas_train.data.standardize.run import RECORD, standardize
from tests.train.instruct.small_sets import agvas_data
from tests.train.sets.files import array, picture
from tests.train.standardize.downloads import DEFECT, DOWNLOADS, isic, isic_2018, ksdd2

SEEDED = ["ksdd2", "rsdd", "dagm"]


def place_of(root: Path, name: str) -> Path:
    return root / REGISTRY[name].paths[0][0]


def record_of(root: Path, name: str) -> dict:
    return json.loads((place_of(root, name) / RECORD).read_text())


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(pixels: np.ndarray, line: dict) -> np.ndarray:
    left, top, right, bottom = line.get("box", (0, 0, pixels.shape[1], pixels.shape[0]))
    return pixels[top:bottom, left:right]


def test_every_test_set_of_the_registry_can_be_made_and_evaluated():
    listed = [name for name, entry in REGISTRY.items() if entry.group is Group.TEST and ANOMALIES in entry.paths[0][0]]
    assert set(FORMATS) == set(DOWNLOADS) == set(listed)
    assert sorted(SETS) == sorted(place_of(Path(), name).name for name in FORMATS)


@pytest.mark.parametrize("name", DOWNLOADS)
def test_training_and_evaluation_read_the_same_images(tree, name):
    counts = DOWNLOADS[name][1]
    [adapter] = open_sets(tree, [name]).values()
    described = adapter.describe()
    assert [described.samples, described.normal, described.anomalous, described.classes] == [
        counts[each] for each in ("images", "normal", "anomalous", "categories")
    ]
    assert record_of(tree, name)["counts"] == counts
    items = load_dataset(place_of(tree, name)).items
    assert len(items) == len(adapter)
    for index, item in enumerate(items):
        sample = adapter.sample(index)
        assert sample.images == (item.image,)
        assert sample.anomaly.present == item.anomalous
        size = sample.pixels[0].shape[:2]
        if item.anomalous:
            assert np.array_equal(sample.anomaly.mask, load_mask(item, size))
            assert sample.anomaly.mask.any()


@pytest.mark.parametrize("name", DOWNLOADS)
def test_every_file_is_that_of_the_download(tree, downloads, name):
    folder, record = place_of(tree, name), record_of(tree, name)
    files = content(folder)
    assert set(files) == {*record["files"], RECORD, "meta.json"}
    assert {path: hashlib.sha256(files[path]).hexdigest() for path in record["files"]} == {
        path: line["sha256"] for path, line in record["files"].items()
    }
    for path, line in record["files"].items():
        source = downloads / name / line["source"]
        if "/ground_truth/" in path:
            truth = np.asarray(Image.open(source)) > (0 if name == "visa" else 127)
            assert np.array_equal(np.asarray(Image.open(folder / path)), cut(truth, line) * 255)
        elif "box" in line:
            assert np.array_equal(read_image(folder / path), cut(read_image(source), line))
        else:
            assert files[path] == source.read_bytes()


@pytest.mark.parametrize("name", DOWNLOADS)
def test_the_folders_alone_say_the_same_as_the_list(tree, tmp_path, name):
    place, alone = place_of(tree, name), tmp_path / "alone"
    shutil.copytree(place, alone)
    (alone / "meta.json").unlink()
    listed, found = (
        {(item.name, item.mask and item.mask.relative_to(folder), item.kind) for item in load_dataset(folder).items}
        for folder in (place, alone)
    )
    assert found == listed


def test_agvas_eval_finds_all_sets(tree):
    assert [dataset.name for dataset in find_benchmarks(tree)] == list(SETS)


def test_images_for_training_are_listed_apart(tree):
    meta = json.loads((place_of(tree, "btad") / "meta.json").read_text())
    assert [record["img_path"] for record in meta["train"]["01"]] == ["01/train/good/0000.bmp"]
    assert {record["specie_name"] for record in meta["test"]["01"]} == {"good", "anomaly"}
    assert list(record_of(tree, "isic")["left_out"]) == []


def test_what_has_no_mask_is_left_out_and_recorded(tree):
    assert record_of(tree, "ksdd2")["left_out"] == {"train/10009.png": "it has no 10009_GT.png"}


@pytest.mark.parametrize("name", DOWNLOADS)
def test_the_same_seed_gives_the_same_bytes(tree, downloads, tmp_path, name):
    standardize(name, downloads / name, tmp_path)
    assert content(place_of(tmp_path, name)) == content(place_of(tree, name))


@pytest.mark.parametrize("name", SEEDED)
def test_another_seed_chooses_others_and_is_recorded(tree, downloads, tmp_path, name):
    standardize(name, downloads / name, tmp_path, seed=5)
    before, after = record_of(tree, name), record_of(tmp_path, name)
    assert (before["seed"], after["seed"]) == (0, 5)
    assert before["counts"] == after["counts"]
    assert before["files"] != after["files"]


def test_a_choice_depends_on_names_alone(downloads, tree, tmp_path):
    """Files that were made in another order change nothing of what is drawn."""
    for path in sorted((downloads / "ksdd2").rglob("*.png"), reverse=True):
        copy = tmp_path / path.relative_to(downloads)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    standardize("ksdd2", tmp_path / "ksdd2", tmp_path)
    assert record_of(tmp_path, "ksdd2")["files"] == record_of(tree, "ksdd2")["files"]


def test_one_more_defective_image_takes_one_more_normal_one_and_no_other(tree, tmp_path):
    source = ksdd2(tmp_path / "ksdd2")
    picture(source / "test/20100.png")
    array(source / "test/20100_GT.png", DEFECT)
    standardize("ksdd2", source, tmp_path)
    before, after = (
        {path for path in record_of(root, "ksdd2")["files"] if "/good/" in path} for root in (tree, tmp_path)
    )
    assert (len(before), len(after)) == (2, 3)
    assert before < after


def test_isic_of_2016_goes_before_that_of_2018(tmp_path):
    isic_2018(tmp_path / "downloads")
    standardize("isic", tmp_path / "downloads", tmp_path / "one")
    assert "skin/test/anomaly/ISIC_0012010.jpg" in record_of(tmp_path / "one", "isic")["files"]
    isic(tmp_path / "downloads")
    standardize("isic", tmp_path / "downloads", tmp_path / "two")
    assert "skin/test/anomaly/ISIC_0000000.jpg" in record_of(tmp_path / "two", "isic")["files"]


def test_the_command_says_what_it_made_beside_what_the_paper_has(downloads, tmp_path):
    code, out, err = agvas_data("standardize", "KSDD2", downloads / "ksdd2", "--out", tmp_path)
    assert code == 0
    assert out == (
        f"{tmp_path}/anomaly_seg/KSDD2: 4 test images, 2 of them defective, of 1 categories; "
        "the paper's file lists 712, 356 of them defective\n"
    )
    assert "left out: train/10009.png: it has no 10009_GT.png\n" in err
    code, out, _ = agvas_data("standardize", "dagm", downloads / "dagm", "--out", tmp_path, "--seed", 3, "--json")
    report = json.loads(out)
    assert (code, report["seed"], report["counts"]["images"]) == (0, 3, 8)
    assert report["place"] == str(tmp_path / "anomaly_seg/DAGM")


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_wrong_source_is_one_line_and_leaves_nothing(downloads, tmp_path, name):
    (tmp_path / "empty").mkdir()
    code, out, err = agvas_data("standardize", name, tmp_path / "empty", "--out", tmp_path / "tree")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {tmp_path}/empty: found no ")
    assert "expected " in err
    assert not (tmp_path / "tree").exists()


def test_bad_usage_is_one_line(downloads, tmp_path):
    for arguments, line in (
        (("mvtek", downloads), "error: 'mvtek': no such test set, expected one of mvtec, visa, ksdd2"),
        (("isic", tmp_path / "nowhere"), f"error: {tmp_path}/nowhere: found no folder, expected the original download"),
    ):
        code, _, err = agvas_data("standardize", *arguments, "--out", tmp_path)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(line)


def test_a_second_run_into_the_same_place_is_refused(downloads, tmp_path):
    agvas_data("standardize", "isic", downloads / "isic", "--out", tmp_path)
    before = content(tmp_path)
    code, _, err = agvas_data("standardize", "isic", downloads / "isic", "--out", tmp_path, "--seed", 1)
    assert (code, err.count("\n")) == (2, 1)
    assert "anomaly_seg/ISIC: already there, expected nothing" in err
    assert content(tmp_path) == before


KILLED = """
import os, signal
from pathlib import Path
from agvas_runtime.files import whole_folder
with whole_folder(Path(PLACE)) as work:
    (work / "skin/test/anomaly").mkdir(parents=True)
    (work / "meta.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_nothing_that_loads_or_stands_in_the_way(downloads, tree, tmp_path):
    place = place_of(tmp_path, "isic")
    killed = subprocess.run([sys.executable, "-c", KILLED.replace("PLACE", repr(str(place)))], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name.startswith(".") for path in place.parent.iterdir()] == [True]
    with pytest.raises(InputError, match="found no test set"):
        find_benchmarks(tmp_path)
    standardize("isic", downloads / "isic", tmp_path)
    assert content(place) == content(place_of(tree, "isic"))
    assert list(place.parent.iterdir()) == [place]


def test_two_images_that_want_one_name_are_refused(tmp_path):
    source = isic(tmp_path / "isic")
    picture(source / "ISBI2016_ISIC_Part1_Test_Data/ISIC_0000001.png")
    code, _, err = agvas_data("standardize", "isic", source, "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "found the name skin/test/anomaly/ISIC_0000001" in err
    array(source / "ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000001.png", DEFECT)
    code, _, err = agvas_data("standardize", "isic", source, "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "found a second mask of image ISIC_0000001" in err
