"""Anomaly sets: meta.json in both schemas, MVTec's folders, VisA's csv split. Read as evaluation reads them."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.datasets import Item, items_of_folders, items_of_meta, load_mask, meta_file
from agvas_runtime.errors import InputError
from agvas_runtime.frames import open_image, read_bytes, upright
from agvas_train.data.sets.adapter import Counts, Subset
from agvas_train.data.sets.reading import Texts, below, image_size, naming
from agvas_train.data.sets.sample import ALL_ANCHORS, Anomaly, Mask, Sample, Size, Source

VISA_SPLIT = Path("split_csv") / "1cls.csv"
"""VisA's own list, read where no meta.json is there; its masks hold small ids, and all but 0 is defect."""


@dataclass(frozen=True, eq=False)
class Listed:
    """What a set lists under "test"; these images serve training and testing."""

    source: Path
    base: Path
    """The folder that all names begin in."""
    images: Texts
    masks: Texts
    """The mask of each image; "" where it has none."""
    masked: NDArray[np.bool_]
    """Whether it has one."""
    anomalous: NDArray[np.bool_]
    labels: NDArray[np.int32]
    """For each image, its place in `named`."""
    named: tuple[tuple[str, str], ...]
    """Every category with each of its kinds."""
    any_value: bool
    """Whether every value but 0 of a mask is defect."""

    def item(self, index: int) -> Item:
        """One image as evaluation knows it."""
        name, mask = self.images[index], self.masks[index]
        category, kind = self.named[self.labels[index]]
        truth = self.base / mask if mask else None
        return Item(self.base / name, truth, category, kind, bool(self.anomalous[index]), name)


@dataclass(frozen=True)
class AnomalySet:
    """One anomaly set, by its folder: `meta_<folder>.json` beside it, `meta.json` in it, or folders as MVTec's."""

    name: str
    root: Path

    def __len__(self) -> int:
        return len(listed(self.root).images)

    def read_lists(self) -> None:
        """The set's one list."""
        listed(self.root)

    def sample(self, index: int) -> Sample:
        """One image, whether it is normal, and its mask where it has one."""
        found = listed(self.root)
        item = found.item(index)
        mask = None
        if item.mask is not None:
            size = image_size(item.image)
            mask = any_value(item.mask, size) if found.any_value else load_mask(item, size)
        anomaly = Anomaly(bool(item.anomalous), mask, item.category, item.kind)
        anchors = ALL_ANCHORS if mask is not None else ()
        return Sample((item.image,), Source(self.name, found.source, index), anchors, anomaly=anomaly)

    def half(self, *, anomalous: bool) -> Subset:
        """The normal images, or the anomalous ones that have a mask, for drawing both alike."""
        found = listed(self.root)
        wanted = found.anomalous & found.masked if anomalous else ~found.anomalous
        return Subset(self, np.flatnonzero(wanted), "anomalous" if anomalous else "normal")

    def describe(self) -> Counts:
        """Images, masks, normal and anomalous images, and categories."""
        found = listed(self.root)
        anomalous, categories = int(found.anomalous.sum()), {category for category, _ in found.named}
        masks = int(found.masked.sum())
        return Counts(len(self), len(self), masks, len(self) - anomalous, anomalous, len(categories))


@cache
def listed(root: Path) -> Listed:
    """What is listed, whether the files are there or not; read once a process. Raises InputError without a list."""
    meta, split = meta_file(root), root / VISA_SPLIT
    if meta:
        found = _packed(meta, meta.parent, items_of_meta(meta))
    elif split.is_file():
        found = _packed(split, root, _visa_items(root), any_value=True)
    else:
        found = _packed(root, root, items_of_folders(root))
    if not len(found.images):
        raise InputError(f"{root}: found no test images, expected meta.json, {VISA_SPLIT}, or <category>/test/<kind>/")
    return found


def _packed(source: Path, base: Path, items: Iterable[Item], *, any_value: bool = False) -> Listed:
    images, masks = Texts(), Texts()
    masked, anomalous, labels = array("b"), array("b"), array("i")
    named: dict[tuple[str, str], int] = {}
    for item in items:
        images.append(item.name)
        masks.append(item.mask.relative_to(base).as_posix() if item.mask else "")
        masked.append(item.mask is not None)
        anomalous.append(bool(item.anomalous))
        labels.append(named.setdefault((item.category, item.kind), len(named)))
    return Listed(
        source,
        base,
        images,
        masks,
        masked=np.array(masked, np.bool_),
        anomalous=np.array(anomalous, np.bool_),
        labels=np.array(labels, np.int32),
        named=tuple(named),
        any_value=any_value,
    )


def _visa_items(root: Path) -> Iterator[Item]:
    split = root / VISA_SPLIT
    with naming(split):
        for row in csv.DictReader(io.StringIO(read_bytes(split).decode("utf-8-sig"))):
            if row["split"] != "test":
                continue
            image, anomalous = below(root, row["image"], split), row["label"] != "normal"
            mask = below(root, row["mask"], split) if anomalous and row["mask"] else None
            kind = "anomaly" if anomalous else "good"
            yield Item(image, mask, row["object"], kind, anomalous, row["image"])


def any_value(path: Path, size: Size) -> Mask:
    """A mask of numbers as bool [H,W]: all but 0 is defect. Raises InputError where it has another size."""
    image = open_image(read_bytes(path), str(path))
    mask = upright(np.asarray(image) > 0, image)
    if mask.shape != size:
        raise InputError(f"{path}: found a mask {list(mask.shape)}, expected {list(size)} as its image has")
    return mask
