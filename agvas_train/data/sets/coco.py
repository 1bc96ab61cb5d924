"""COCO JSON: which annotations belong to an image, and the part sets PACO-LVIS, PASCAL-Part and PartImageNet."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.frames import MAX_PIXELS
from agvas_train.data.sets.adapter import Counts
from agvas_train.data.sets.json_ranges import elements, read_element
from agvas_train.data.sets.outlines import paint
from agvas_train.data.sets.reading import Texts, below, naming
from agvas_train.data.sets.sample import SEG_ALONE, Region, Sample, Size, Source


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """Which images a file lists, and where their annotations stand in it; sorted by image, then as in the file."""

    path: Path
    categories: dict[int, str]
    names: Texts
    """The images' file names, as in the file."""
    sizes: NDArray[np.int64]
    """[images, 2]: height and width of each."""
    listed_ids: NDArray[np.int64]
    """The images' ids in order."""
    places: NDArray[np.int64]
    """For each of these, its place in `names` and `sizes`."""
    image_ids: NDArray[np.int64]
    """Images with annotations, in the order of their ids."""
    firsts: NDArray[np.int64]
    """For each of these, its first row in `ranges`; one more at the end."""
    ranges: NDArray[np.int64]
    """[annotations, 2]: first byte and byte behind the last."""

    def file(self, image_id: int) -> tuple[str, Size]:
        """File name, and height and width, of an image; KeyError without it, ValueError beyond the largest images."""
        at = int(np.searchsorted(self.listed_ids, image_id, "right")) - 1
        if at < 0 or self.listed_ids[at] != image_id:
            raise KeyError(image_id)
        place = int(self.places[at])
        height, width = self.sizes[place].tolist()
        if height * width > MAX_PIXELS:  # its masks would be as large
            raise ValueError(f"found {height} x {width} pixels, expected at most {MAX_PIXELS / 10**6:g} megapixels")
        return self.names[place], (height, width)

    def annotations(self, image_id: int) -> list[dict[str, Any]]:
        """The annotations of an image. Raises InputError when the file was changed."""
        place = int(np.searchsorted(self.image_ids, image_id))
        if place == len(self.image_ids) or self.image_ids[place] != image_id:
            return []
        rows = self.ranges[self.firsts[place] : self.firsts[place + 1]]
        return [read_element(self.path, int(start), int(end)) for start, end in rows]


@cache
def coco_index(path: Path) -> CocoIndex:
    """The index of a file, made once a process. Raises InputError when it is no COCO JSON."""
    categories: dict[int, str] = {}
    names, images, rows = Texts(), array("q"), array("q")
    with naming(path):
        for kind, start, end, value in elements(path):
            if kind == "categories":
                categories[value["id"]] = value["name"].strip()
            elif kind == "images":
                names.append(value["file_name"])
                images.extend((int(value["id"]), int(value["height"]), int(value["width"])))
            elif kind == "annotations":
                rows.extend((int(value["image_id"]), start, end))
    listed, table = (np.array(each, np.int64).reshape(-1, 3) for each in (images, rows))
    order = np.argsort(listed[:, 0], kind="stable")
    table = table[np.argsort(table[:, 0], kind="stable")]
    image_ids, firsts = np.unique(table[:, 0], return_index=True)
    return CocoIndex(
        path,
        categories,
        names,
        sizes=listed[:, 1:].copy(),
        listed_ids=listed[order, 0],
        places=order,
        image_ids=image_ids,
        firsts=np.append(firsts, len(table)),
        ranges=table[:, 1:].copy(),
    )


def part_phrases(category: str) -> tuple[str, ...]:
    """How a category is spoken: "cup_(drink):handle" is "cup handle" and "the handle of the cup".

    Each name ends at its "_("; other underscores are blanks and all letters small (ours).
    """
    whole, *part = [name.split("_(")[0].replace("_", " ").strip().lower() for name in category.split(":", 1)]
    return (f"{whole} {part[0]}", f"the {part[0]} of the {whole}") if part else (whole,)


@dataclass(frozen=True)
class CocoParts:
    """A set of objects and parts in a COCO JSON; a region is all that an image has of a category (ours)."""

    name: str
    annotations: Path
    images: Path

    def __len__(self) -> int:
        return len(coco_index(self.annotations).image_ids)

    def read_lists(self) -> None:
        """The file of images and annotations."""
        coco_index(self.annotations)

    def sample(self, index: int) -> Sample:
        """A region for each category in the image."""
        coco = coco_index(self.annotations)
        image_id = int(coco.image_ids[index])
        source = f"{self.annotations}: image {image_id}"
        outlined: dict[int, list[Any]] = {}
        with naming(source):
            file, size = coco.file(image_id)
            for annotation in coco.annotations(image_id):
                outlined.setdefault(annotation["category_id"], []).append(annotation["segmentation"])
            regions = tuple(
                Region(part_phrases(coco.categories[category]), paint(outlined[category], size, source))
                for category in sorted(outlined)
            )
        image = below(self.images, file, source)
        return Sample((image,), Source(self.name, self.annotations, index), SEG_ALONE, regions)

    def describe(self) -> Counts:
        """Images with annotations, and the annotations."""
        coco = coco_index(self.annotations)
        return Counts(len(self), len(self), len(coco.ranges), classes=len(coco.categories))
