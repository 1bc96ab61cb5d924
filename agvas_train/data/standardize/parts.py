"""What a standardised set is made of: a part an image; what is wrong with one; how normal images are chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.datasets import Item, load_mask
from agvas_runtime.errors import InputError
from agvas_train.data.sets.reading import image_size
from agvas_train.data.sets.sample import Size
from agvas_train.data.standardize.search import images_in

GOOD, ANOMALY = "good", "anomaly"

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are the first that do not belong to it."""
Phase = Literal["train", "test"]
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Part:
    """One image of a standardised set, and what of the download it comes from."""

    category: str
    stem: str
    """Its file's name without suffix: no two images of a kind share one."""
    image: Path
    mask: Path | None = None
    """None for a normal image."""
    kind: str = GOOD
    phase: Phase = "test"
    box: Box | None = None
    """The piece of the image that is taken; None for all of it."""
    numbered: bool = False
    """Whether the mask holds the numbers of the defects: then all but 0 is defect."""


@dataclass
class Found:
    """What a download holds."""

    parts: list[Part] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a file or a folder is not used, by its path."""

    def leave_out(self, path: Path, why: object) -> None:
        """Say why a file or a folder is not used."""
        self.left_out[str(path)] = str(why)

    def truth_of(self, part: Part) -> NDArray[np.bool_] | None:
        """As the function; None where a file cannot be read: then its image is left out."""
        try:
            return truth_of(part, image_size(part.image))
        except InputError as error:
            self.leave_out(part.image, error)
            return None


def truth_of(part: Part, size: Size) -> NDArray[np.bool_]:
    """Where a part's whole image of this size is defective, bool [H,W]. Raises InputError naming the file at fault."""
    anomalous = part.mask is not None
    item = Item(part.image, part.mask, part.category, part.kind, anomalous, part.stem, part.numbered)
    return load_mask(item, size)


def plain(name: str, source: object) -> str:
    """A name that is to be one of a file or a folder. Raises InputError about `source` where it is more, or none."""
    if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        raise InputError(f"{source}: found the name {name!r}, expected a plain one, without a path")
    return name


def ranked(seed: int, things: Sequence[Thing], name: Callable[[Thing], str]) -> list[Thing]:
    """The things in the order in which they are drawn.

    It follows from the seed and their names alone: the smallest SHA-256 of both first. The order of a folder's files
    and the version of Python change nothing.
    """

    def rank(thing: Thing) -> bytes:
        return hashlib.sha256(f"{seed} {name(thing)}".encode("utf-8", "surrogateescape")).digest()

    return sorted(things, key=rank)


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """The masks of a folder by the names of their images; the endings _segmentation and _mask do not count.

    Raises InputError where an image has two.
    """
    masks: dict[str, Path] = {}
    for path in images_in(folder):
        stem = path.stem
        for ending in ("_segmentation", "_mask"):
            stem = stem[: -len(ending)] if stem.lower().endswith(ending) else stem
        if stem in masks:
            raise InputError(f"{path}: found a second mask of image {stem}, beside {masks[stem].name}; expected one")
        masks[stem] = path
    return masks


def defective(images: Path, masks: Path, category: str, kind: str = ANOMALY, prefix: str = "") -> Found:
    """A folder of defective images and the folder of their masks; whatever has no partner is left out."""
    found, listed, partners = Found(), images_in(images), masks_by_stem(masks)
    for image in listed:
        if image.stem in partners:
            found.parts.append(Part(category, prefix + image.stem, image, partners[image.stem], kind))
        else:
            found.leave_out(image, f"it has no mask in {masks.name}")
    stems = {image.stem for image in listed}
    for stem, path in partners.items():
        if stem not in stems:
            found.leave_out(path, f"it has no image in {images.name}")
    return found
