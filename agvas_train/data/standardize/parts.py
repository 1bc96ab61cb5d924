"""What a standardised set is made of: a part an image; how downloads are searched and normal images are chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.datasets import Item, load_mask
from agvas_runtime.errors import InputError
from agvas_runtime.frames import SUFFIXES, open_image, read_bytes, upright
from agvas_train.data.sets.reading import image_size

GOOD, ANOMALY = "good", "anomaly"
DEEPEST = 3
"""Folders below the source in which a download's own folders are looked for."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are the first that do not belong to it."""
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
    phase: Literal["train", "test"] = "test"
    box: Box | None = None
    """The piece of the image that is taken; None for all of it."""
    numbered: bool = False
    """Whether the mask holds the numbers of the defects: then all but 0 is defect."""


@dataclass
class Found:
    """What a download holds."""

    parts: list[Part] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a file is not used, by its path."""


def truth_of(part: Part) -> NDArray[np.bool_]:
    """Where a part's whole image is defective, bool [H,W]. Raises InputError naming the file at fault."""
    size = image_size(part.image)
    if part.mask is None or not part.numbered:
        return load_mask(Item(part.image, part.mask, part.category, part.kind, part.mask is not None, part.stem), size)
    image = open_image(read_bytes(part.mask), str(part.mask))
    mask = upright(np.asarray(image) > 0, image)
    if mask.shape != size:
        raise InputError(f"{part.mask}: found a mask {list(mask.shape)}, expected {list(size)} as {part.image} has")
    return mask


def drawn(seed: int, things: Sequence[Thing], count: int, name: Callable[[Thing], str]) -> list[Thing]:
    """So many of the things, or all where there are fewer, in their own order.

    Which ones follows from the seed and their names alone: the smallest SHA-256 of both. The order of a folder's files
    and the version of Python change nothing.
    """

    def rank(place: int) -> bytes:
        return hashlib.sha256(f"{seed} {name(things[place])}".encode("utf-8", "surrogateescape")).digest()

    return [things[place] for place in sorted(sorted(range(len(things)), key=rank)[:count])]


def balanced(parts: Iterable[Part], seed: int) -> list[Part]:
    """All defective parts, and of each category as many normal ones, drawn by the seed."""
    parts = list(parts)
    kept = [part for part in parts if part.mask is not None]
    for category in sorted({part.category for part in parts}):
        normal = [part for part in parts if part.category == category and part.mask is None]
        count = sum(part.category == category for part in kept if part.mask is not None)
        kept += drawn(seed, normal, count, lambda part: f"{part.category}/{part.stem}")
    return kept


def images_in(folder: Path) -> list[Path]:
    """A folder's images by name; hidden files are none."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def places(source: Path, deepest: int = DEEPEST) -> Iterator[Path]:
    """The source and the folders below it, the nearest first; no hidden ones, nor what macOS adds to an archive."""
    level = [source]
    for _ in range(deepest + 1):
        yield from level
        inner = sorted(path for folder in level for path in folder.iterdir() if path.is_dir())
        level = [path for path in inner if path.name[0] != "." and path.name != "__MACOSX"]


def find_folder(source: Path, what: str, *wanted: str) -> Path:
    """The nearest place that holds all these folders. Raises InputError."""
    for place in places(source):
        if all((place / name).is_dir() for name in wanted):
            return place
    raise InputError(f"{source}: found no {' and '.join(wanted)}, expected the folders of {what}'s original download")


def find_pair(source: Path, what: str, *known: tuple[str, str]) -> tuple[Path, Path]:
    """The folders of images and of masks, side by side, under the first of these pairs of patterns that is there.

    Raises InputError.
    """
    for images, masks in known:
        for place in places(source):
            found = [[path for path in sorted(place.glob(name)) if path.is_dir()] for name in (images, masks)]
            if all(found):
                return found[0][0], found[1][0]
    names = " or ".join(f"{images!r} with {masks!r}" for images, masks in known)
    raise InputError(f"{source}: found no such folders, expected {what}'s original download: {names}")


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
            found.left_out[str(image)] = f"it has no mask in {masks.name}"
    stems = {image.stem for image in listed}
    alone = [path for stem, path in partners.items() if stem not in stems]
    found.left_out |= {str(path): f"it has no image in {images.name}" for path in alone}
    return found
