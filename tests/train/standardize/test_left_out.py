"""Downloads that are not as they should be: what cannot be used is left out and named, what is twice is refused."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from agvas_train.data.standardize.run import standardize
from tests.train.instruct.small_sets import agvas_data
from tests.train.sets.files import array, picture
from tests.train.standardize.downloads import (
    DEFECT,
    DOWNLOADS,
    btad,
    clinicdb,
    dagm,
    isic,
    ksdd2,
    mvtec,
    rsdd,
    visa,
)
from tests.train.standardize.test_standardize import place_of, record_of


def refused(name: str, source: Path, tmp_path: Path) -> str:
    """The one line, without what every one begins with."""
    code, out, err = agvas_data("standardize", name, source, "--out", tmp_path / "tree")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert list((tmp_path / "tree").rglob("*")) in ([], [tmp_path / "tree/anomaly_seg"])
    return err.removeprefix(f"error: {source}").lstrip("/: ").rstrip()


def halve(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_that_is_there_twice_is_refused(tmp_path, name):
    for copy in ("one", "two"):
        DOWNLOADS[name][0](tmp_path / "downloads" / copy)
    assert re.search(r"^found .*\bone\b.*\btwo\b.*, expected ", refused(name, tmp_path / "downloads", tmp_path))


@pytest.mark.parametrize(("name", "folder"), [("colondb", "CVC-ColonDB"), ("clinicdb", "CVC-ClinicDB")])
def test_of_several_sets_of_polyps_the_one_that_says_so_is_taken(tmp_path, name, folder):
    for other in ("CVC-300", "CVC-ClinicDB", "CVC-ColonDB", "Kvasir"):
        picture(tmp_path / "polyps" / other / "images/1.png")
        array(tmp_path / "polyps" / other / "masks/1.png", DEFECT)
    standardize(name, tmp_path / "polyps", tmp_path)
    assert {line["source"].split("/")[0] for line in record_of(tmp_path, name)["files"].values()} == {folder}
    shutil.rmtree(tmp_path / "polyps" / folder)
    line = refused(name, tmp_path / "polyps", tmp_path)
    assert line.startswith(f"found {folder} 3 times (CVC-300, ")


def test_a_folder_may_lie_in_one_of_its_own_name(tmp_path):
    source = isic(tmp_path / "isic")
    for folder in list(source.iterdir()):
        shutil.move(folder, tmp_path / "nested" / folder.name / folder.name)
    report = standardize("isic", tmp_path / "nested", tmp_path)
    assert (report["counts"]["images"], report["left_out"]) == (3, {})


def test_classes_that_were_unpacked_into_folders_of_their_own_are_found(tmp_path):
    source = dagm(tmp_path / "dagm")
    for folder in list(source.iterdir()):
        shutil.move(folder, tmp_path / "nested" / folder.name / folder.name)
    assert standardize("dagm", tmp_path / "nested", tmp_path)["counts"] == DOWNLOADS["dagm"][1]


@pytest.mark.parametrize(
    ("make", "name", "what", "kept", "stranger"),
    [(mvtec, "mvtec", "MVTec-AD", "bottle", "gear"), (btad, "btad", "BTAD", "01", "04")],
)
def test_only_known_categories_with_a_ground_truth_are_taken(tmp_path, make, name, what, kept, stranger):
    root = make(tmp_path / name)
    root = root / "BTech_Dataset_transformed" if name == "btad" else root
    shutil.copytree(root / kept, root / stranger)
    others = {path.name for path in root.iterdir() if (path / "test").is_dir()} - {kept, stranger}
    for other in others:
        shutil.rmtree(root / other / "ground_truth")
    report = standardize(name, root, tmp_path)
    expected = dict.fromkeys(others, "it has no ground_truth")
    assert report["left_out"] == expected | {stranger: f"it is no category of {what}"}
    assert report["counts"]["categories"] == 1


def test_masks_of_a_kind_without_images_are_named(tmp_path):
    source = mvtec(tmp_path / "mvtec")
    array(source / "tile/ground_truth/crack/000_mask.png", DEFECT)
    report = standardize("mvtec", source, tmp_path)
    assert report["left_out"] == {"tile/ground_truth/crack/000_mask.png": "it has no image in crack"}


def test_a_mask_of_ksdd2_without_image_is_named(tmp_path):
    source = ksdd2(tmp_path / "ksdd2")
    array(source / "train/10077_GT.png", DEFECT)
    assert standardize("ksdd2", source, tmp_path)["left_out"]["train/10077_GT.png"] == "it has no image"


def add_rows(root: Path, *rows: tuple[str, str, str, str, str]) -> None:
    with (root / "split_csv/1cls.csv").open("a", newline="") as file:
        csv.writer(file).writerows(rows)


def test_what_of_visa_does_not_fit_together_is_named(tmp_path):
    source, images, masks = visa(tmp_path / "visa"), "candle/Data/Images/Anomaly", "candle/Data/Masks/Anomaly"
    for number in (10, 11, 12, 13):
        picture(source / f"{images}/{number:04d}.JPG")
    for number in (12, 14):
        array(source / f"{masks}/{number:04d}.png", DEFECT)
    add_rows(
        source,
        ("candle", "test", "anomaly", f"{images}/0010.JPG", ""),
        ("candle", "test", "anomaly", f"{images}/0011.JPG", f"{masks}/0011.png"),
        ("candle", "train", "anomaly", f"{images}/0012.JPG", f"{masks}/0012.png"),
        ("candle", "test", "normal", "candle/Data/Images/Normal/0099.JPG", ""),
    )
    report = standardize("visa", source, tmp_path)
    assert report["counts"] == DOWNLOADS["visa"][1]
    assert report["left_out"] == {
        f"{images}/0010.JPG": "its row names no mask",
        f"{images}/0011.JPG": "its mask 0011.png is not there",
        f"{images}/0012.JPG": "it is defective, and named for training",
        f"{images}/0013.JPG": "no row of 1cls.csv names it",
        f"{masks}/0014.png": "no row of 1cls.csv names it",
        "candle/Data/Images/Normal/0099.JPG": "it is not there",
    }


@pytest.mark.parametrize("name", ["", ".", "..", "../../out", "a/b", "a\\b"])
def test_a_name_that_leaves_the_sets_folder_is_refused(tmp_path, name):
    source = visa(tmp_path / "visa")
    add_rows(source, (name, "test", "normal", "candle/Data/Images/Normal/0001.JPG", ""))
    assert refused("visa", source, tmp_path) == (
        f"split_csv/1cls.csv: found the name {name!r}, expected a plain one, without a path"
    )


def test_a_file_whose_name_is_no_name_without_its_suffix_is_refused(tmp_path):
    source, image = visa(tmp_path / "visa"), "candle/Data/Images/Normal/...JPG"
    shutil.copy(source / "candle/Data/Images/Normal/0001.JPG", source / image)
    add_rows(source, ("candle", "test", "normal", image, ""))
    assert refused("visa", source, tmp_path).startswith(f"{image}: found the name '..', expected a plain one")


def test_what_labels_txt_calls_defective_is_never_normal(tmp_path):
    source = dagm(tmp_path / "dagm")
    (source / "Class1/Train/Label/0002_label.PNG").unlink()
    shutil.rmtree(source / "Class10/Test/Label")
    report = standardize("dagm", source, tmp_path)
    assert report["left_out"] == {
        "Class1/Train/0002.PNG": "Labels.txt names 0002_label, which is not there",
        "Class10/Test": "it has no Label",
    }
    assert (report["counts"]["anomalous"], report["counts"]["normal"]) == (2, 2)


@pytest.mark.parametrize(
    ("make", "name", "mask"),
    [
        (dagm, "dagm", "Class1/Train/Label/0002_label.PNG"),
        (isic, "isic", "ISBI2016_ISIC_Part1_Test_GroundTruth/ISIC_0000001_Segmentation.png"),
    ],
)
def test_an_empty_mask_leaves_its_image_out_before_normal_ones_are_drawn(tmp_path, make, name, mask):
    source, whole = make(tmp_path / name), DOWNLOADS[name][1]
    array(source / mask, DEFECT * 0)
    report = standardize(name, source, tmp_path)
    [(image, why)] = report["left_out"].items()
    assert why == f"its mask {Path(mask).name} is empty"
    assert report["counts"]["anomalous"] == whole["anomalous"] - 1
    assert report["counts"]["normal"] == (report["counts"]["anomalous"] if whole["normal"] else 0)
    assert not [line for line in record_of(tmp_path, name)["files"].values() if line["source"] == image]


@pytest.mark.parametrize(
    ("make", "name", "broken", "image"),
    [
        (isic, "isic", "*Test_Data/ISIC_0000001.jpg", "*Test_Data/ISIC_0000001.jpg"),
        (isic, "isic", "*GroundTruth/ISIC_0000001_Segmentation.png", "*Test_Data/ISIC_0000001.jpg"),
        (clinicdb, "clinicdb", "CVC-ClinicDB/Original/2.tif", "CVC-ClinicDB/Original/2.tif"),
        (ksdd2, "ksdd2", "test/20001_GT.png", "test/20001.png"),
        (rsdd, "rsdd", "Type-I RSDDs*/Rail*/rail_1.jpg", "Type-I RSDDs*/Rail*/rail_1.jpg"),
    ],
)
def test_a_file_that_is_cut_in_half_is_left_out_and_named(tmp_path, make, name, broken, image):
    source, whole = make(tmp_path / name), DOWNLOADS[name][1]
    [path], [left_out] = source.glob(broken), source.glob(image)
    halve(path)
    report = standardize(name, source, tmp_path)
    why = report["left_out"][left_out.relative_to(source).as_posix()]
    assert why.startswith(f"{path.relative_to(source).as_posix()}: ")
    assert report["counts"]["anomalous"] < whole["anomalous"]
    assert str(tmp_path) not in (place_of(tmp_path, name) / "standardize.json").read_text()


def test_a_broken_normal_image_gives_its_place_to_the_next_one(tree, tmp_path):
    source = ksdd2(tmp_path / "ksdd2")
    line = next(line for path, line in record_of(tree, "ksdd2")["files"].items() if "/good/" in path)
    halve(source / line["source"])
    report = standardize("ksdd2", source, tmp_path)
    assert line["source"] in report["left_out"]
    assert report["counts"] == DOWNLOADS["ksdd2"][1]


def test_a_download_of_which_nothing_can_be_read_is_one_line_and_leaves_nothing(tmp_path):
    source = isic(tmp_path / "isic")
    for path in source.glob("*Test_Data/*.jpg"):
        path.write_bytes(b"no picture")
    line = refused("isic", source, tmp_path)
    assert line.startswith("found no defective image, expected isic's original download; left out: ISBI2016")
    assert "ISIC_0000000.jpg: not an image file" in line
