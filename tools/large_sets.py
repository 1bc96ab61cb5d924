"""Sets that name as many images as the public ones, in their layouts, with a few distinct files behind the names."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agvas_train.data.synth import SynthConfig, generate

SIDE, DISTINCT = 512, 24
LARGE = (2000, 1500)
"""Width and height of the anomaly images, pixels; all others are `SIDE` wide and high."""
LARGEST_PX = LARGE[0] * LARGE[1]
PARTS = "part_0001_NG_BX_C1_20231021124537"
"""How the names of the anomaly images begin: about as long as Real-IAD's."""
TEXT = {
    "Expectation": "The surface should be smooth and of one colour.",
    "Observation": "A small dark pit lies at the left, darker than what is around it.",
    "Diagnosis": "It breaks the even surface and points to a loss of material.",
    "Summary": "The defect is a small dark pit at the left, as shown in [NOR][ANO][SEG].",
    "Explanation": "Normally the surface is smooth. However, a small dark pit lies at the left, so it is defective.",
}


@dataclass(frozen=True)
class Lists:
    """What a set's lists name and how large they are."""

    entries: int
    """Images, annotations, references and records, each counted once."""
    file_bytes: int = 0


def write_large(root: Path, entries: int) -> dict[str, Lists]:
    """Write a set or two of each group, about so many images or records in each; returns their lists by name."""
    for number in range(DISTINCT):
        made = generate(1, number, SynthConfig(normal_share=0))
        picture, mask = Image.fromarray(made.image), Image.fromarray(made.mask.astype(np.uint8) * 255)
        _save(picture.resize((SIDE, SIDE)), root / f"coco/train2017/{number:012d}.jpg")
        _save(picture.resize((SIDE, SIDE)), root / f"refer_seg/images/mscoco/images/train2014/{number}.jpg")
        image, truth = _anomalous(number)
        _save(picture.resize(LARGE), root / "anomaly_seg" / image)
        _save(mask.resize(LARGE), root / "anomaly_seg" / truth)
    return {
        "ade20k": _ade20k(root, min(entries, 20_000)),
        "paco-lvis": _paco(root, entries),
        "refcoco": _refcoco(root, entries),
        "dtd-instruct": _instruct(root, entries // 5),
        "goodsad-instruct": _mapped(root, entries // 5),
        "road": _anomaly(root, entries),
        "llava-150k": _llava(root, entries),
    }


def _anomalous(number: int) -> tuple[str, str]:
    """An image below the root of the anomaly sets, and its mask."""
    name = f"{PARTS}_{number % DISTINCT:02d}"
    return f"Road/road/test/anomaly/{name}.jpg", f"Road/road/ground_truth/anomaly/{name}.png"


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _document(path: Path, value: Any) -> int:
    """Returns the file's size."""
    return _text(path, json.dumps(value))


def _text(path: Path, text: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_text(text)


def _ade20k(root: Path, count: int) -> Lists:
    rng = np.random.default_rng(0)
    for number in range(count):
        image = root / f"ade20k/images/training/ADE_train_{number:08d}.jpg"
        labels = root / f"ade20k/annotations/training/ADE_train_{number:08d}.png"
        if number < DISTINCT:
            image.parent.mkdir(parents=True, exist_ok=True)
            os.link(root / f"coco/train2017/{number:012d}.jpg", image)
            blocks = rng.integers(0, 151, (8, 8), np.uint8)
            _save(Image.fromarray(np.kron(blocks, np.ones((SIDE // 8, SIDE // 8), np.uint8))), labels)
        else:
            for path in (image, labels):
                os.link(path.with_stem(f"ADE_train_{number % DISTINCT:08d}"), path)
    return Lists(count)


def _coco(path: Path, names: list[str], categories: list[str], count: int) -> int:
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
    return _document(path, {"images": images, "annotations": annotations, "categories": listed})


def _paco(root: Path, count: int) -> Lists:
    names = [f"train2017/{number:012d}.jpg" for number in range(DISTINCT)]
    parts = ["cup", "cup:handle", "trash_can"]
    size = _coco(root / "vlpart/paco/annotations/paco_lvis_v1_train.json", names, parts, count)
    return Lists((1 + len(parts)) * count, size)


def _refcoco(root: Path, count: int) -> Lists:
    """A reference with three sentences for each image, with all the keys that the official lists have."""
    folder = root / "refer_seg/refcoco"
    size = _coco(folder / "instances.json", [f"{number}.jpg" for number in range(DISTINCT)], ["thing"], count)
    references = [
        {
            "ref_id": at,
            "ann_id": at,
            "category_id": 0,
            "image_id": at,
            "file_name": f"COCO_train2014_{at:012d}_{at}.jpg",
            "split": "train",
            "sent_ids": [3 * at, 3 * at + 1, 3 * at + 2],
            "sentences": [
                {"tokens": sent.split(), "raw": sent.capitalize(), "sent_id": 3 * at + number, "sent": sent}
                for number, sent in enumerate(
                    ("the thing on the left", "whatever is nearest to us", f"number {at} from above")
                )
            ],
        }
        for at in range(count)
    ]
    size += (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    return Lists(3 * count, size)


def _anomaly(root: Path, count: int) -> Lists:
    listed = [
        {
            "img_path": _anomalous(at)[0],
            "cls_name": "road",
            "anomaly": at % 2,
            "mask_path": _anomalous(at)[1] if at % 2 else "",
            "specie_name": "",
        }
        for at in range(count)
    ]
    document = {"train": {}, "test": {"road": listed}}
    return Lists(count, _document(root / "anomaly_seg/meta_Road.json", document))


def _records(count: int) -> list[dict[str, Any]]:
    return [
        {
            "image": _anomalous(at)[0],
            "mask": _anomalous(at)[1],
            "category": "road",
            "exists": bool(at % 2),
            **TEXT,
        }
        for at in range(count)
    ]


def _instruct(root: Path, count: int) -> Lists:
    lines = "".join(json.dumps(record) + "\n" for record in _records(count))
    return Lists(count, _text(root / "anomaly_instruct_20K/DTD.jsonl", lines))


def _mapped(root: Path, count: int) -> Lists:
    """Records that a mapping finds inside a document."""
    folder = root / "anomaly_instruct_20K"
    size = _document(folder / "Goods.json", {"data": _records(count)})
    return Lists(count, size + _text(folder / "Goods.mapping.yaml", "records: data\n"))


def _llava(root: Path, count: int) -> Lists:
    said = ["<image>\nWhat is shown?", "A surface.", "Is it in order?", "There is a dark pit at the left of it."] * 2
    turns = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(said)]
    records = [{"id": str(at), "image": f"{at % DISTINCT:012d}.jpg", "conversations": turns} for at in range(count)]
    return Lists(count, _document(root / "vqa_dataset/llava_dataset/llava_instruct_150k.json", records))
