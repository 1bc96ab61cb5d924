"""Anomaly sets: meta.json in both schemas, MVTec's folders, VisA's csv split. Read as evaluation reads them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from agvas_runtime.datasets import Item, items_of_folders, items_of_meta, load_mask, meta_file
from agvas_runtime.errors import InputError
from agvas_runtime.frames import open_image, read_bytes
from agvas_train.data.sets.adapter import Counts, Subset
from agvas_train.data.sets.reading import below, image_size, naming
from agvas_train.data.sets.sample import ALL_ANCHORS, Anomaly, Mask, Sample, Size, Source

VISA_SPLIT = Path("split_csv") / "1cls.csv"
"""VisA's own list, read where no meta.json is there; its masks hold small ids, and all but 0 is defect."""


@dataclass(frozen=True, eq=False)
class Listed:
    """What a set lists under "test"; these images serve training and testing."""

    source: Path
    items: tuple[Item, ...]
    normal: tuple[int, ...]
    """Indexes of the normal images."""
    anomalous: tuple[int, ...]
    any_value: bool
    """Whether every value but 0 of a mask is defect."""


@dataclass(frozen=True)
class AnomalySet:
    """One anomaly set, by its folder: `meta_<folder>.json` beside it, `meta.json` in it, or folders as MVTec's."""

    name: str
    root: Path

    def __len__(self) -> int:
        return len(listed(self.root).items)

    def sample(self, index: int) -> Sample:
        """One image, whether it is normal, and its mask where it has one."""
        found = listed(self.root)
        item = found.items[index]
        mask = None
        if item.mask is not None:
            size = image_size(item.image)
            mask = _any_value(item.mask, size) if found.any_value else load_mask(item, size)
        anomaly = Anomaly(bool(item.anomalous), mask, item.category, item.kind)
        anchors = ALL_ANCHORS if mask is not None else ()
        return Sample((item.image,), Source(self.name, found.source, index), anchors, anomaly=anomaly)

    def half(self, *, anomalous: bool) -> Subset:
        """The normal images, or the anomalous ones that have a mask, for drawing both alike."""
        found = listed(self.root)
        masked = tuple(index for index in found.anomalous if found.items[index].mask is not None)
        return Subset(self, masked if anomalous else found.normal)

    def describe(self) -> Counts:
        """Images, masks, normal and anomalous images, and categories."""
        found = listed(self.root)
        masks = sum(item.mask is not None for item in found.items)
        categories = len({item.category for item in found.items})
        return Counts(len(self), len(self), masks, len(found.normal), len(found.anomalous), categories)


@cache
def listed(root: Path) -> Listed:
    """What is listed, whether the files are there or not; read once a process. Raises InputError without a list."""
    meta, split = meta_file(root), root / VISA_SPLIT
    if meta:
        items = tuple(items_of_meta(meta))
    elif split.is_file():
        items = _visa_items(root)
    else:
        items = tuple(items_of_folders(root))
    if not items:
        raise InputError(f"{root}: found no test images, expected meta.json, {VISA_SPLIT}, or <category>/test/<kind>/")
    normal = tuple(index for index, item in enumerate(items) if not item.anomalous)
    anomalous = tuple(index for index, item in enumerate(items) if item.anomalous)
    of_split = not meta and split.is_file()
    return Listed(meta or (split if of_split else root), items, normal, anomalous, of_split)


def _visa_items(root: Path) -> tuple[Item, ...]:
    split = root / VISA_SPLIT
    items = []
    with naming(split):
        for row in csv.DictReader(io.StringIO(read_bytes(split).decode("utf-8-sig"))):
            if row["split"] != "test":
                continue
            image, anomalous = below(root, row["image"], split), row["label"] != "normal"
            mask = below(root, row["mask"], split) if anomalous and row["mask"] else None
            kind = "anomaly" if anomalous else "good"
            items.append(Item(image, mask, row["object"], kind, anomalous, row["image"]))
    return tuple(items)


def _any_value(path: Path, size: Size) -> Mask:
    mask = np.asarray(open_image(read_bytes(path), str(path)))
    if mask.shape != size:
        raise InputError(f"{path}: found a mask {list(mask.shape)}, expected {list(size)} as its image has")
    return mask > 0
