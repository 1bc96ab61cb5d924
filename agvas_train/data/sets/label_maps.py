"""Sets whose labels are images of class ids: ADE20K, COCO-Stuff, Mapillary Vistas 2.0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import open_image, read_bytes
from agvas_train.data.sets.adapter import Counts
from agvas_train.data.sets.names import ADE20K, COCO_STUFF
from agvas_train.data.sets.reading import Texts, naming, read_json, stems
from agvas_train.data.sets.sample import SEG_ALONE, Mask, Region, Sample, Size, Source

IGNORED = 255
"""The id of pixels that count neither way."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The pixels of one id in a map of ids that all regions of its image share."""

    labels: NDArray[np.uint8]
    value: int

    @property
    def size(self) -> Size:
        """Height and width of the map."""
        return self.labels.shape[0], self.labels.shape[1]

    def mask(self) -> Mask:
        """bool [H, W] of the pixels with the id."""
        mask: Mask = self.labels == self.value
        return mask

    def ignored(self) -> Mask | None:
        """bool [H, W] of the pixels with id 255; None where there are none."""
        ignored = self.labels == IGNORED
        return ignored if ignored.any() else None


@dataclass(frozen=True)
class Ade20k:
    """ADE20K: id 0 is unlabelled, id k is name k - 1; labels stand where images do, with annotations for images."""

    name: str
    root: Path

    def __len__(self) -> int:
        return len(self._stems)

    def read_lists(self) -> None:
        """The images' names."""
        _ = self._stems

    def sample(self, index: int) -> Sample:
        """A region for each name in the image. Raises InputError for ids above 150."""
        stem = self._stems[index]
        image = self.root / "images" / "training" / f"{stem}.jpg"
        labels = self.root / "annotations" / "training" / f"{stem}.png"
        meaning = np.array([IGNORED, *range(len(ADE20K))])
        return _sample(self.name, index, image, labels, ADE20K, meaning)

    def describe(self) -> Counts:
        """Images and the id maps beside them."""
        masks = stems(self.root / "annotations" / "training", ".png")
        return Counts(len(self), len(self), len(masks), classes=len(ADE20K))

    @property
    def _stems(self) -> Texts:
        return stems(self.root / "images" / "training", ".jpg")


@dataclass(frozen=True)
class CocoStuff:
    """COCO-Stuff's maps of things and stuff: the id is the name's index; names with "-" are ignored."""

    name: str
    labels: Path
    images: Path

    def __len__(self) -> int:
        return len(stems(self.labels, ".png"))

    def read_lists(self) -> None:
        """The id maps' names."""
        stems(self.labels, ".png")

    def sample(self, index: int) -> Sample:
        """A region for each name in the image that is not ignored. Raises InputError for ids from 182 to 254."""
        stem = stems(self.labels, ".png")[index]
        meaning = np.array([IGNORED if "-" in each else value for value, each in enumerate(COCO_STUFF)])
        image, labels = self.images / f"{stem}.jpg", self.labels / f"{stem}.png"
        return _sample(self.name, index, image, labels, COCO_STUFF, meaning)

    def describe(self) -> Counts:
        """As many images as id maps; the names that are not ignored."""
        return Counts(len(self), len(self), len(self), classes=sum("-" not in each for each in COCO_STUFF))


@dataclass(frozen=True)
class Mapillary:
    """Mapillary Vistas 2.0: names are the readable ones of its config; "Unlabeled" is ignored (ours)."""

    name: str
    root: Path

    def __len__(self) -> int:
        return len(stems(self._labels, ".png"))

    def read_lists(self) -> None:
        """The id maps' names and the config."""
        stems(self._labels, ".png")
        _mapillary_names(self.root / "config_v2.0.json")

    def sample(self, index: int) -> Sample:
        """A region for each name in the image. Raises InputError for ids that the config lacks."""
        stem = stems(self._labels, ".png")[index]
        names = _mapillary_names(self.root / "config_v2.0.json")
        meaning = np.array([IGNORED if each == "unlabeled" else value for value, each in enumerate(names)])
        image = self.root / "training" / "images" / f"{stem}.jpg"
        return _sample(self.name, index, image, self._labels / f"{stem}.png", names, meaning)

    def describe(self) -> Counts:
        """As many images as id maps. Raises InputError when the config cannot be read."""
        names = _mapillary_names(self.root / "config_v2.0.json")
        return Counts(len(self), len(self), len(self), classes=sum(each != "unlabeled" for each in names))

    @property
    def _labels(self) -> Path:
        return self.root / "training" / "v2.0" / "labels"


@cache
def _mapillary_names(config: Path) -> tuple[str, ...]:
    with naming(config):
        return tuple(str(label["readable"]).lower() for label in read_json(config)["labels"])


def _sample(
    name: str, index: int, image: Path, labels: Path, names: Sequence[str], meaning: NDArray[np.int64]
) -> Sample:
    """The regions of a map in which id k means name `meaning[k]`; 255 and whatever means 255 is ignored."""
    picture = open_image(read_bytes(labels), str(labels))
    if picture.mode not in ("L", "P"):
        raise InputError(f"{labels}: found pixels of mode {picture.mode}, expected a map of 8-bit ids")
    present = [value for value, count in enumerate(picture.histogram()) if count and value != IGNORED]
    if present and present[-1] >= len(meaning):
        raise InputError(f"{labels}: found the id {present[-1]}, expected 0 to {len(meaning) - 1} or {IGNORED}")
    table = np.full(256, IGNORED, np.uint8)
    table[: len(meaning)] = meaning
    ids = np.asarray(picture.point(table.tolist()))
    named = sorted({int(table[value]) for value in present} - {IGNORED})
    regions = tuple(Region((names[value],), Labelled(ids, value)) for value in named)
    return Sample((image,), Source(name, labels, index), SEG_ALONE, regions)
