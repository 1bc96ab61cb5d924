"""Referring sets (refCLEF, refCOCO, refCOCO+, refCOCOg): sentences about objects of a COCO JSON.

The lists of sentences are pickles, which could run code: only plain values are unpickled.
"""

from __future__ import annotations

import io
import pickle
from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_train.data.sets.adapter import Counts
from agvas_train.data.sets.coco import CocoIndex, coco_index
from agvas_train.data.sets.outlines import paint
from agvas_train.data.sets.reading import Texts, below, naming, read_json
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


@dataclass(frozen=True, eq=False)
class References:
    """The objects of split "train" that have sentences; sorted by image, then as in the list."""

    image_ids: NDArray[np.int64]
    """Images with such objects, in the order of their ids."""
    firsts: NDArray[np.int64]
    """For each of these, its first object; one more at the end."""
    annotation_ids: NDArray[np.int64]
    """For each object, its annotation in instances.json."""
    first_sentences: NDArray[np.int64]
    """For each object, its first sentence; one more at the end."""
    sentences: Texts

    def objects(self, index: int) -> list[tuple[int, tuple[str, ...]]]:
        """Annotation and sentences of each object of one image."""
        found = []
        for at in range(self.firsts[index], self.firsts[index + 1]):
            said = range(self.first_sentences[at], self.first_sentences[at + 1])
            found.append((int(self.annotation_ids[at]), tuple(self.sentences[each] for each in said)))
        return found


@cache
def _references(path: Path) -> References:
    """What a list says of split "train", read once a process; all else in it, tokens and ids, is let go."""
    listed = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    objects, first_sentences, sentences = array("q"), array("q", (0,)), Texts()
    with naming(path):
        train = [(int(reference["image_id"]), reference) for reference in listed if reference["split"] == "train"]
        for image_id, reference in sorted(train, key=lambda each: each[0]):
            objects.extend((image_id, int(reference["ann_id"])))
            for sentence in reference["sentences"]:
                sentences.append(str(sentence["sent"]).strip())
            first_sentences.append(len(sentences))
    table = np.array(objects, np.int64).reshape(-1, 2)
    image_ids, firsts = np.unique(table[:, 0], return_index=True)
    ends = np.array(first_sentences, np.int64)
    return References(image_ids, np.append(firsts, len(table)), table[:, 1].copy(), ends, sentences)


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
        return len(_references(self.references).image_ids)

    def read_lists(self) -> None:
        """The list of sentences and instances.json."""
        _references(self.references)
        self._instances()

    def sample(self, index: int) -> Sample:
        """A region for each object of the image that has sentences."""
        references, coco = _references(self.references), self._instances()
        image_id = int(references.image_ids[index])
        source = f"{coco.path}: image {image_id}"
        with naming(source):
            file, size = coco.file(image_id)
            outlines = {int(each["id"]): each["segmentation"] for each in coco.annotations(image_id)}
            regions = tuple(
                Region(sentences, paint([outlines[annotation]], size, source))
                for annotation, sentences in references.objects(index)
            )
        image = below(self.images, file, source)
        return Sample((image,), Source(self.name, self.references, index), SEG_ALONE, regions)

    def describe(self) -> Counts:
        """Images and referred objects of split "train"."""
        return Counts(len(self), len(self), len(_references(self.references).annotation_ids))

    def _instances(self) -> CocoIndex:
        return coco_index(self.root / "instances.json")
