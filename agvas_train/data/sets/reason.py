"""ReasonSeg: questions about an image whose answer is a region, some with an explanation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_train.data.sets.adapter import Counts
from agvas_train.data.sets.label_maps import IGNORED, Labelled
from agvas_train.data.sets.outlines import drawn_polygon
from agvas_train.data.sets.reading import image_size, naming, read_json, stems
from agvas_train.data.sets.sample import SEG_ALONE, Region, Sample, Size, Source


@dataclass(frozen=True)
class ReasonSeg:
    """One split: <stem>.jpg with <stem>.json; explanations of the training split in explanatory/train.json."""

    name: str
    root: Path
    split: str = "train"

    def __len__(self) -> int:
        return len(stems(self.root / self.split, ".jpg"))

    def read_lists(self) -> None:
        """The images' names and, for the training split, the explanations."""
        stems(self.root / self.split, ".jpg")
        self._explained()

    def sample(self, index: int) -> Sample:
        """A region that the image's texts ask for; the same once more for each explained question."""
        stem = stems(self.root / self.split, ".jpg")[index]
        image, labels = self.root / self.split / f"{stem}.jpg", self.root / self.split / f"{stem}.json"
        record = read_json(labels)
        with naming(labels):
            shape = Labelled(_painted(record["shapes"], image_size(image)), 1)
            regions = [Region(_texts(record["text"]), shape, bool(record["is_sentence"]))]
        for query, explanation in self._explained().get(image.name, ()):
            regions.append(Region((query,), shape, is_sentence=True, explanation=explanation))
        return Sample((image,), Source(self.name, labels, index), SEG_ALONE, tuple(regions))

    def describe(self) -> Counts:
        """Images, and how many have a file of outlines."""
        return Counts(len(self), len(self), len(stems(self.root / self.split, ".json")))

    def _explained(self) -> dict[str, list[tuple[str, str]]]:
        return _explanations(self.root) if self.split == "train" else {}


def _texts(told: object) -> tuple[str, ...]:
    """A list of texts, or one that stands alone. Raises TypeError for anything else."""
    texts = [told] if isinstance(told, str) else told
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"text: found {str(told)[:60]!r}, expected a list of texts")
    return tuple(texts)


def _painted(shapes: list[dict[str, Any]], size: Size) -> NDArray[np.uint8]:
    """1 for what is asked for, 255 for what counts neither way; the largest shape is painted first."""
    drawn = [(each["label"].lower(), drawn_polygon(each["points"], size)) for each in shapes]
    drawn = [each for each in drawn if each[0] != "flag"]
    labels = np.zeros(size, np.uint8)
    for label, mask in sorted(drawn, key=lambda each: -int(each[1].sum())):
        labels[mask] = IGNORED if "ignore" in label else 1
    return labels


@cache
def _explanations(root: Path) -> dict[str, list[tuple[str, str]]]:
    """(question, explanation) by image name; none where the set comes without them."""
    path = root / "explanatory" / "train.json"
    found: dict[str, list[tuple[str, str]]] = {}
    if path.is_file():
        with naming(path):
            for record in read_json(path):
                found.setdefault(record["image"], []).append((str(record["query"]), str(record["outputs"])))
    return found
