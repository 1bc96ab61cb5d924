"""Tiny downloads of every test set as they are unpacked, with what lies around in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.train.sets.files import array, box, picture, text

DEFECT = box(2, 5, 3, 7).astype(np.uint8) * 255


def long_mask(length: int, width: int, *defects: tuple[int, int]) -> np.ndarray:
    """A rail's mask [length, width] with a defect in each of these ranges of rows."""
    mask = np.zeros((length, width), np.uint8)
    for top, bottom in defects:
        mask[top:bottom, 2 : width - 3] = 255
    return mask


def ksdd2(root: Path) -> Path:
    for phase, begin in (("train", 10000), ("test", 20000)):
        for number in range(6):
            stem = root / phase / str(begin + number)
            picture(stem.with_suffix(".png"))
            array(stem.with_name(f"{stem.name}_GT.png"), DEFECT * np.uint8(number == 1))
    picture(root / "train/10009.png")  # no mask: nothing is known of it
    return root


def rsdd(root: Path) -> Path:
    for kind, length, width, suffix in (
        ("Type-I RSDDs dataset", 100, 16, "jpg"),
        ("Type-II RSDDs dataset", 125, 11, "png"),
    ):
        for number in range(3):
            picture(root / kind / f"Rail surface images/rail_{number}.{suffix}", length, width)
            mask = long_mask(length, width, (20, 24), (60 + number, 66))
            array(root / kind / f"GroundTruth/rail_{number}.{suffix}", mask)
    text(root / "__MACOSX/GroundTruth/._rail_0.png", "x")
    return root


def isic(root: Path) -> Path:
    for number in range(3):
        stem = f"ISIC_000000{number}"
        picture(root / f"ISBI2016_ISIC_Part1_Test_Data/{stem}.jpg")
        array(root / f"ISBI2016_ISIC_Part1_Test_GroundTruth/{stem}_Segmentation.png", DEFECT)
    return root


def isic_2018(root: Path) -> Path:
    for number in range(3):
        picture(root / f"ISIC2018_Task1-2_Test_Input/ISIC_001201{number}.jpg")
        array(root / f"ISIC2018_Task1_Test_GroundTruth/ISIC_001201{number}_segmentation.png", DEFECT)
    text(root / "ISIC2018_Task1-2_Test_Input/ATTRIBUTION.txt", "x")
    return root


def clinicdb(root: Path) -> Path:
    for number in (1, 2, 10):
        picture(root / f"CVC-ClinicDB/Original/{number}.tif")
        array(root / f"CVC-ClinicDB/Ground Truth/{number}.tif", DEFECT)
    return root


def colondb(root: Path) -> Path:
    for number in (1, 2):
        picture(root / f"CVC-ColonDB/images/{number}.png")
        array(root / f"CVC-ColonDB/masks/{number}.png", DEFECT)
    return root


def btad(root: Path) -> Path:
    for category, image, mask in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        folder = root / "BTech_Dataset_transformed" / category
        picture(folder / f"train/ok/0000.{image}")
        picture(folder / f"test/ok/0000.{image}")
        picture(folder / f"test/ko/0000.{image}")
        array(folder / f"ground_truth/ko/0000.{mask}", DEFECT)
    return root


def dagm(root: Path) -> Path:
    for name in ("Class1", "Class10"):
        for phase in ("Train", "Test"):
            for number in range(1, 7):
                picture(root / name / phase / f"{number:04d}.PNG")
            array(root / name / phase / "Label/0002_label.PNG", DEFECT)
            lines = [f"{number}\t0\t{number:04d}.PNG\t0\t0\n" for number in range(1, 7)]
            lines[1] = "2\t1\t0002.PNG\t0\t0002_label.PNG\n"
            text(root / name / phase / "Label/Labels.txt", "1\n" + "".join(lines))
    return root


def mvtec(root: Path) -> Path:
    for name in ("bottle", "tile"):
        picture(root / name / "train/good/000.png")
        picture(root / name / "test/good/000.png")
        for kind in ("broken_large", "contamination"):
            picture(root / name / f"test/{kind}/000.png")
            array(root / name / f"ground_truth/{kind}/000_mask.png", DEFECT)
    text(root / "readme.txt", "x")
    return root


def visa(root: Path) -> Path:
    lines = ["object,split,label,image,mask"]
    for number, (phase, label) in enumerate((("train", "normal"), ("test", "normal"), ("test", "anomaly"))):
        image = f"candle/Data/Images/{label.capitalize()}/{number:04d}.JPG"
        picture(root / image)
        mask = f"candle/Data/Masks/Anomaly/{number:04d}.png" if label == "anomaly" else ""
        if mask:
            array(root / mask, DEFECT // 255 * 3)  # the number of a kind of defect
        lines.append(f"candle,{phase},{label},{image},{mask}")
    text(root / "split_csv/1cls.csv", "\n".join(lines) + "\n")
    return root


DOWNLOADS: dict[str, tuple[Callable[[Path], Path], dict[str, int]]] = {
    "mvtec": (mvtec, {"images": 6, "normal": 2, "anomalous": 4, "train": 2, "categories": 2}),
    "visa": (visa, {"images": 2, "normal": 1, "anomalous": 1, "train": 1, "categories": 1}),
    "ksdd2": (ksdd2, {"images": 4, "normal": 2, "anomalous": 2, "train": 0, "categories": 1}),
    "rsdd": (rsdd, {"images": 24, "normal": 12, "anomalous": 12, "train": 0, "categories": 1}),
    "isic": (isic, {"images": 3, "normal": 0, "anomalous": 3, "train": 0, "categories": 1}),
    "clinicdb": (clinicdb, {"images": 3, "normal": 0, "anomalous": 3, "train": 0, "categories": 1}),
    "colondb": (colondb, {"images": 2, "normal": 0, "anomalous": 2, "train": 0, "categories": 1}),
    "btad": (btad, {"images": 6, "normal": 3, "anomalous": 3, "train": 3, "categories": 3}),
    "dagm": (dagm, {"images": 8, "normal": 4, "anomalous": 4, "train": 0, "categories": 2}),
}
"""How each is made, and what is to come of it."""
