"""The normal images of each category, and which of them is most similar to another image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.console import note
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_image
from agvas_train.data.instruct.similar import Gallery, Likeness, Look, look_of

KEPT = 2
"""Categories in memory, 20 kB an image: threads go through the categories one after another."""


class NormalImages:
    """Finds the most similar normal image; any number of threads may ask."""

    def __init__(self, paths: dict[str, list[Path]]) -> None:
        """`paths`: the normal images of each category."""
        self._paths = paths
        self._kept: OrderedDict[str, tuple[list[Path], Gallery]] = OrderedDict()
        self._lock = threading.Lock()

    def most_similar(self, category: str, image: NDArray[np.uint8], own: Path) -> tuple[Path, Likeness]:
        """The normal image of a category that is most similar to an image, uint8 RGB [H,W,3], but not the file `own`.

        Of equally similar ones the first by name. Raises InputError where there is none that can be read.
        """
        paths, gallery = self._of(category)
        alike = zip(gallery.compare(look_of(image)), paths, strict=True)
        others = [(likeness, path) for likeness, path in alike if path != own]
        if not others:
            raise InputError(f"{own}: category {category!r} has no other normal image that can be read")
        likeness, path = max(others, key=lambda other: other[0].score)
        return path, likeness

    def _of(self, category: str) -> tuple[list[Path], Gallery]:
        with self._lock:
            if category not in self._kept:
                self._kept[category] = _read(category, self._paths[category])
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(category)
            return self._kept[category]


def _read(category: str, paths: list[Path]) -> tuple[list[Path], Gallery]:
    read: list[Path] = []
    looks: list[Look] = []
    for path in paths:
        try:
            looks.append(look_of(read_image(path)))
            read.append(path)
        except InputError as error:
            note(f"not among the normal images of {category}: {error}")
    if not looks:
        raise InputError(f"category {category!r}: none of its {len(paths)} normal images can be read")
    return read, Gallery(looks)
