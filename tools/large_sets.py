"""Sets that name as many images as the public ones, in their layouts, with a few distinct files behind the names."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agvas_train.data.synth import SynthConfig, generate

SIDE, DISTINCT = 512, 24
LARGE = (2000, 1500)
"""Width and height of the anomaly images, pixels; all others are `SIDE` wide and high."""
LARGEST_PX = LARGE[0] * LARGE[1]
TEXT = {
    "Expectation": "The surface should be smooth and of one colour.",
    "Observation": "A small dark pit lies at the left, darker than what is around it.",
    "Diagnosis": "It breaks the even surface and points to a loss of material.",
    "Summary": "The defect is a small dark pit at the left, as shown in [NOR][ANO][SEG].",
    "Explanation": "Normally the surface is smooth. However, a small dark pit lies at the left, so it is defective.",
}


def write_large(root: Path, entries: int) -> int:
    """Write a set or two of each group, about so many entries in each list; returns how many there are in all."""
    for number in range(DISTINCT):
        made = generate(1, number, SynthConfig(normal_share=0))
        picture, mask = Image.fromarray(made.image), Image.fromarray(made.mask.astype(np.uint8) * 255)
        _save(picture.resize((SIDE, SIDE)), root / f"coco/train2017/{number:012d}.jpg")
        _save(picture.resize((SIDE, SIDE)), root / f"refer_seg/images/mscoco/images/train2014/{number}.jpg")
        _save(picture.resize(LARGE), root / f"anomaly_seg/Road/road/test/{number}.jpg")
        _save(mask.resize(LARGE), root / f"anomaly_seg/Road/road/ground_truth/{number}.png")
    linked = min(entries, 20_000)
    return sum(
        (
            _ade20k(root, linked),
            _paco(root, entries),
            _refcoco(root, entries),
            _anomaly(root, entries),
            _instruct(root, entries // 5),
            _llava(root, entries),
        )
    )


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _document(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _ade20k(root: Path, count: int) -> int:
    rng = np.random.default_rng(0)
    for number in range(count):
        image = root / f"ade20k/images/training/{number:06d}.jpg"
        labels = root / f"ade20k/annotations/training/{number:06d}.png"
        if number < DISTINCT:
            image.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / f"coco/train2017/{number:012d}.jpg", image)
            blocks = rng.integers(0, 151, (8, 8), np.uint8)
            _save(Image.fromarray(np.kron(blocks, np.ones((SIDE // 8, SIDE // 8), np.uint8))), labels)
        else:
            for path in (image, labels):
                os.link(path.with_stem(f"{number % DISTINCT:06d}"), path)
    return count


def _coco(path: Path, names: list[str], categories: list[str], count: int) -> None:
    """An object list with an annotation of each category in each image."""
    outlines = [[[20.5 + 90 * k, 30, 180 + 90 * k, 40, 200 + 90 * k, 300, 30 + 90 * k, 280]] for k in range(3)]
    images = [
        {"id": at, "file_name": names[at % DISTINCT], "height": SIDE, "width": SIDE, "license": 1}
        for at in range(count)
    ]
    annotations = [
        {
            "id": at,
            "image_id": at // len(categories),
            "category_id": at % len(categories),
            "bbox": [0, 0, 9, 9],
            "segmentation": outlines[at % len(categories)],
        }
        for at in range(count * len(categories))
    ]
    listed = [{"id": at, "name": name} for at, name in enumerate(categories)]
    _document(path, {"images": images, "annotations": annotations, "categories": listed})


def _paco(root: Path, count: int) -> int:
    names = [f"train2017/{number:012d}.jpg" for number in range(DISTINCT)]
    parts = ["cup", "cup:handle", "trash_can"]
    _coco(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", names, parts, count)
    return (1 + len(parts)) * count


def _refcoco(root: Path, count: int) -> int:
    folder = root / "refer_seg/refcoco"
    _coco(folder / "instances.json", [f"{number}.jpg" for number in range(DISTINCT)], ["thing"], count)
    references = [
        {
            "ref_id": at,
            "ann_id": at,
            "category_id": 0,
            "image_id": at,
            "split": "train",
            "sentences": [{"sent": f"the thing {word}"} for word in ("on the left", "nearest to us", f"number {at}")],
        }
        for at in range(count)
    ]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    return 5 * count


def _anomaly(root: Path, count: int) -> int:
    listed = [
        {
            "img_path": f"Road/road/test/{at % DISTINCT}.jpg",
            "cls_name": "road",
            "anomaly": at % 2,
            "mask_path": f"Road/road/ground_truth/{at % DISTINCT}.png" if at % 2 else "",
            "specie_name": "",
        }
        for at in range(count)
    ]
    _document(root / "anomaly_seg/meta_Road.json", {"train": {}, "test": {"road": listed}})
    return count


def _instruct(root: Path, count: int) -> int:
    records = [
        {
            "image": f"Road/road/test/{at % DISTINCT}.jpg",
            "mask": f"Road/road/ground_truth/{at % DISTINCT}.png",
            "category": "road",
            "exists": bool(at % 2),
            **TEXT,
        }
        for at in range(count)
    ]
    path = root / "anomaly_instruct_20K/DTD.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return count


def _llava(root: Path, count: int) -> int:
    said = ["<image>\nWhat is shown?", "A surface.", "Is it in order?", "There is a dark pit at the left of it."] * 2
    turns = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(said)]
    records = [{"id": str(at), "image": f"{at % DISTINCT:012d}.jpg", "conversations": turns} for at in range(count)]
    _document(root / "vqa_dataset/llava_dataset/llava_instruct_150k.json", records)
    return count
