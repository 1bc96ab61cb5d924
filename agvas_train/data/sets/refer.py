"""Referring sets (refCLEF, refCOCO, refCOCO+, refCOCOg): sentences about objects of a COCO JSON.

The lists of sentences are pickles, which could run code: only plain values are unpickled.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_train.data.sets.adapter import Counts
from agvas_train.data.sets.coco import coco_index
from agvas_train.data.sets.outlines import paint
from agvas_train.data.sets.reading import below, naming, read_json
from agvas_train.data.sets.sample import SEG_ALONE, Region, Sample, Source

PLAIN = {each.__name__: each for each in (bool, int, float, str, list, tuple, dict, set, frozenset)}
"""All that a pickle may name; most lists name nothing."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in PLAIN:  # the latter is Python 2's
            return PLAIN[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only plain values are unpickled")


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain values (texts of Python 2 as UTF-8); nothing in it is ever called.

    Raises:
        InputError: it names anything but plain types, or is no pickle.
    """
    data = io.BytesIO(read_bytes(path))
    try:
        return _PlainUnpickler(data, encoding="utf-8", errors="replace").load()
    except Exception as error:  # a hostile or torn pickle raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: refused this pickle: {reason}; expected plain lists, or a .json twin") from None


@cache
def _references(path: Path) -> dict[int, list[dict[str, Any]]]:
    """The references of split "train" by image, in the order of the image ids."""
    listed = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    by_image: dict[int, list[dict[str, Any]]] = {}
    with naming(path):
        for reference in listed:
            if reference["split"] == "train":
                by_image.setdefault(int(reference["image_id"]), []).append(reference)
    return dict(sorted(by_image.items()))


@cache
def _image_ids(path: Path) -> tuple[int, ...]:
    return tuple(_references(path))


@dataclass(frozen=True)
class Refer:
    """One referring set: `refs(<split>).p` or its JSON twin `refs(<split>).json`, and instances.json."""

    name: str
    root: Path
    split: str
    """Who made the split: "unc" or "umd"."""
    images: Path

    @property
    def references(self) -> Path:
        """The list of sentences: the JSON twin where there is one."""
        twin = self.root / f"refs({self.split}).json"
        return twin if twin.is_file() else twin.with_suffix(".p")

    def __len__(self) -> int:
        return len(_image_ids(self.references))

    def sample(self, index: int) -> Sample:
        """A region for each object of the image that has sentences."""
        image_id = _image_ids(self.references)[index]
        coco = coco_index(self.root / "instances.json")
        source = f"{coco.path}: image {image_id}"
        with naming(source):
            file, size = coco.files[image_id]
            outlines = {each["id"]: each["segmentation"] for each in coco.annotations(image_id)}
            regions = tuple(
                Region(
                    tuple(str(sentence["sent"]).strip() for sentence in reference["sentences"]),
                    paint([outlines[reference["ann_id"]]], size, source),
                )
                for reference in _references(self.references)[image_id]
            )
        image = below(self.images, file, source)
        return Sample((image,), Source(self.name, self.references, index), SEG_ALONE, regions)

    def describe(self) -> Counts:
        """Images and referred objects of split "train"."""
        objects = sum(len(each) for each in _references(self.references).values())
        return Counts(len(self), len(self), objects)
