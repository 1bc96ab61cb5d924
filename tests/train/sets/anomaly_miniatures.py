"""The anomaly sets and the records about them in their real layouts, with their traps."""

import json
from pathlib import Path

import numpy as np

from tests.train.sets.files import array, box, document, picture, text

TEXTS = {
    "Expectation": "It should be smooth.",
    "Observation": "A dark pit at the left.",
    "Diagnosis": "It is a defect.",
    "Summary": "A dark pit at the left, [NOR][ANO][SEG].",
    "Explanation": "It should be smooth, but a dark pit is at the left.",
}


def record(image: str, mask: str, category: str, kind: str, anomaly: int, **more: str) -> dict:
    return {
        "img_path": image,
        "mask_path": mask,
        "cls_name": category,
        "specie_name": kind,
        "anomaly": anomaly,
        **more,
    }


def merged_set(root: Path, name: str, category: str, *, normal: int = 2, masks: bool = True) -> None:
    """Bayes-PFL's schema: paths begin with the set's name; an empty phase is one record without a path."""
    listed = []
    for number in range(normal):
        image = f"{name}/{category}/test/good/{number:03d}.bmp"
        picture(root / "anomaly_seg" / image)
        listed.append(record(image, "", category, "good", 0, dataset_name=name))
    for number in range(2):
        image = f"{name}/{category}/test/anomaly/{number:03d}.bmp"
        mask = f"{name}/{category}/ground_truth/anomaly"
        picture(root / "anomaly_seg" / image)
        (root / "anomaly_seg" / mask).mkdir(parents=True, exist_ok=True)
        if masks:
            mask = f"{mask}/{number:03d}.png"
            array(root / "anomaly_seg" / mask, box(number, number + 2, 3, 7).astype(np.uint8) * 255)
        listed.append(record(image, mask, category, "anomaly", 1, dataset_name=name))
    empty = [record("", "", category, "", 0, dataset_name=name)]
    document(
        root / "anomaly_seg" / f"meta_{name}.json",
        {"train": {category: empty}, "test": {category: listed, "empty": empty}},
    )


def anomaly_sets(root: Path) -> None:
    for name, category in (("RealIADC1", "audiojack"), ("DTD", "Woven_001"), ("Goods", "drink_can")):
        merged_set(root, name, category)
    for name in ("Road", "GC", "ZJU", "KSDD2", "RSDD"):
        merged_set(root, name, name.lower())
    merged_set(root, "MIAD", "wood_surface", masks=False)
    for name, category in (("ISIC", "skin"), ("ClinicDB", "colon"), ("ColonDB", "colon")):
        merged_set(root, name, category, normal=0)
    merged_set(root, "DAGM", "Class1")
    separate_meta(root / "anomaly_seg/BTAD")
    mvtec_folders(root / "anomaly_seg/mvtec")
    visa_split(root / "anomaly_seg/visa")


def separate_meta(folder: Path) -> None:
    """AnomalyCLIP's schema: meta.json in the set's folder, paths seen from there."""
    picture(folder / "01/test/ok/0.png")
    picture(folder / "01/test/ko/1.png")
    array(folder / "01/ground_truth/ko/1.png", box(0, 1, 0, 12).astype(np.uint8))  # defect is 1, not 255
    good = record("01/test/ok/0.png", "", "01", "good", 0)
    bad = record("01/test/ko/1.png", "01/ground_truth/ko/1.png", "01", "ko", 1)
    document(folder / "meta.json", {"train": {"01": [good]}, "test": {"01": [good, bad]}})


def mvtec_folders(folder: Path) -> None:
    picture(folder / "bottle/train/good/000.png")
    picture(folder / "bottle/test/good/000.png")
    picture(folder / "bottle/test/broken_large/000.png")
    array(folder / "bottle/ground_truth/broken_large/000_mask.png", box(2, 4, 0, 5).astype(np.uint8) * 255)


def visa_split(folder: Path) -> None:
    """VisA as it is downloaded: a csv, and masks that hold the numbers of the defects."""
    picture(folder / "candle/Data/Images/Normal/0000.JPG")
    picture(folder / "candle/Data/Images/Anomaly/000.JPG")
    numbers = box(0, 2, 0, 2).astype(np.uint8) * 3 + box(4, 6, 4, 6).astype(np.uint8) * 2
    array(folder / "candle/Data/Masks/Anomaly/000.png", numbers)
    lines = (
        "object,split,label,image,mask",
        "candle,train,normal,candle/Data/Images/Normal/0001.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/0000.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
    )
    text(folder / "split_csv/1cls.csv", "\n".join(lines) + "\n")


def instruct_record(name: str, category: str, anomalous: bool) -> dict:
    kind = "anomaly" if anomalous else "good"
    mask = f"{name}/{category}/ground_truth/anomaly/000.png" if anomalous else ""
    texts = TEXTS if anomalous else TEXTS | {"Summary": ""}
    image = f"{name}/{category}/test/{kind}/000.bmp"
    return {"image": image, "mask": mask, "category": category, "exists": anomalous, **texts}


def instruct(root: Path) -> None:
    """Needs the anomaly sets, whose images it names."""
    folder = root / "anomaly_instruct_20K"
    of_files = {"RealIADC.json": ("RealIADC1", "audiojack")} | dict.fromkeys(
        ("DTD.jsonl", "Own.jsonl"), ("DTD", "Woven_001")
    )
    for file, (name, category) in of_files.items():
        lines = [json.dumps(instruct_record(name, category, anomalous)) for anomalous in (True, False)]
        text(folder / file, "\n".join(lines) + "\n")
    ours = instruct_record("Goods", "drink_can", True)
    other = {
        "paths": {"rgb": ours["image"], "gt": ours["mask"]},
        "cls": ours["category"],
        "answer": {field: ours[field] for field in (*TEXTS, "exists")},
    }
    document(folder / "Goods.json", {"version": 1, "data": {"items": [other]}})
    fields = {"image": "paths.rgb", "mask": "paths.gt", "category": "cls"}
    fields |= {field: f"answer.{field}" for field in (*TEXTS, "exists")}
    document(folder / "Goods.mapping.yaml", {"records": "data.items", "images": "../anomaly_seg", "fields": fields})
