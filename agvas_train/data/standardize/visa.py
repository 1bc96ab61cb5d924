"""VisA: split_csv/1cls.csv names the images of both phases; masks hold the numbers of the defects."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from agvas_runtime.datasets import VISA_SPLIT
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_train.data.sets.reading import below, naming
from agvas_train.data.standardize.parts import ANOMALY, Found, Part, Phase, plain
from agvas_train.data.standardize.search import find_folder, images_in

RULE = "every image that split_csv/1cls.csv names, in its phase"
PHASES: dict[str, Phase] = {"train": "train", "test": "test"}


def list_parts(source: Path, seed: int) -> Found:
    """The images of the list. Raises InputError where it is not there or names something else."""
    root = find_folder(source, "VisA", VISA_SPLIT.parent.name)
    split, found = root / VISA_SPLIT, Found()
    named: set[Path | None] = set()
    with naming(split):
        for row in csv.DictReader(io.StringIO(read_bytes(split).decode("utf-8-sig"))):
            image, phase, category = below(root, row["image"], split), PHASES.get(row["split"]), row["object"]
            if phase is None:
                raise InputError(f"{split}: found the split {row['split']!r}, expected train or test")
            mask = None if row["label"] == "normal" or not row["mask"] else below(root, row["mask"], split)
            named |= {image, mask}
            if not image.is_file():
                found.leave_out(image, "it is not there")
            elif row["label"] == "normal":
                found.parts.append(Part(plain(category, split), image.stem, image, phase=phase))
            elif mask is None or not mask.is_file():
                found.leave_out(image, f"its mask {mask.name} is not there" if mask else "its row names no mask")
            elif phase == "train":
                found.leave_out(image, "it is defective, and named for training")
            else:
                found.parts.append(Part(plain(category, split), image.stem, image, mask, ANOMALY, numbered=True))
    for folder in {path.parent for path in named if path}:
        for path in set(images_in(folder)) - named:
            found.leave_out(path, f"no row of {VISA_SPLIT.name} names it")
    return found
