"""Anomaly sets: meta.json in both schemas, MVTec's folders, VisA's csv split. Read as evaluation reads them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.datasets import (
    VISA_SPLIT,
    Item,
    items_of_folders,
    items_of_meta,
    items_of_visa,
    load_mask,
    meta_file,
)
from agvas_runtime.errors import InputError
from agvas_train.data.sets.adapter import Counts, Subset
from agvas_train.data.sets.reading import Texts, image_size
from agvas_train.data.sets.sample import ALL_ANCHORS, Anomaly, Sample, Source


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
    numbered: bool
    """As of an Item."""

    def item(self, index: int) -> Item:
        """One image as evaluation knows it."""
        name, mask = self.images[index], self.masks[index]
        category, kind = self.named[self.labels[index]]
        truth = self.base / mask if mask else None
        return Item(self.base / name, truth, category, kind, bool(self.anomalous[index]), name, self.numbered)


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
        mask = None if item.mask is None else load_mask(item, image_size(item.image))
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
        found = _packed(split, root, items_of_visa(root), numbered=True)
    else:
        found = _packed(root, root, items_of_folders(root))
    if not len(found.images):
        raise InputError(f"{root}: found no test images, expected meta.json, {VISA_SPLIT}, or <category>/test/<kind>/")
    return found


def _packed(source: Path, base: Path, items: Iterable[Item], *, numbered: bool = False) -> Listed:
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
        numbered=numbered,
    )
