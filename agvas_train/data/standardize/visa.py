"""VisA: split_csv/1cls.csv names the images of both phases; masks hold the numbers of the defects."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_train.data.sets.anomaly import VISA_SPLIT
from agvas_train.data.sets.reading import below, naming
from agvas_train.data.standardize.parts import ANOMALY, Found, Part, find_folder

RULE = "every image that split_csv/1cls.csv names, in its phase"


def list_parts(source: Path, seed: int) -> Found:
    """The images of the list. Raises InputError where it is not there or names something else."""
    root = find_folder(source, "VisA", VISA_SPLIT.parent.name)
    split, found = root / VISA_SPLIT, Found()
    with naming(split):
        for row in csv.DictReader(io.StringIO(read_bytes(split).decode("utf-8-sig"))):
            image, phase = below(root, row["image"], split), row["split"]
            if phase not in ("train", "test"):
                raise InputError(f"{split}: found the split {phase!r}, expected train or test")
            if row["label"] == "normal":
                found.parts.append(
                    Part(row["object"], image.stem, image, phase="train" if phase == "train" else "test")
                )
            else:
                mask = below(root, row["mask"], split)
                found.parts.append(Part(row["object"], image.stem, image, mask, ANOMALY, numbered=True))
    return found
