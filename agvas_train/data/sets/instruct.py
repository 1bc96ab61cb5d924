"""Anomaly-Instruct records: an image, its mask, and the five fields of Figure A.5, in JSON Lines of ours.

The outer shape of the official files is not public. A mapping file beside the records says where another shape keeps
things; `x.mapping.yaml` belongs to `x.json` and `x.jsonl`:

    records: data.items      # where the list is in the document; left out: the file is a list or JSON Lines
    images: ../anomaly_seg   # folder that the paths begin in, seen from the mapping file
    fields: {image: img.path, mask: img.gt, category: cls, exists: answer.exists, Expectation: answer.expectation}
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from agvas_runtime.datasets import Item, load_mask
from agvas_runtime.errors import InputError
from agvas_train.data.sets.adapter import Counts, Subset
from agvas_train.data.sets.json_ranges import Records, records
from agvas_train.data.sets.reading import below, image_size, naming, read_json, read_yaml
from agvas_train.data.sets.sample import ALL_ANCHORS, Anomaly, Sample, Source
from agvas_train.data.synth.notes import Caption

TEXTS = ("Expectation", "Observation", "Diagnosis", "Summary", "Explanation")
GROUP = "[NOR][ANO][SEG]"
UNREADABLE = (InputError, KeyError, TypeError, IndexError)
"""What a broken record raises. It is its own sample's fault, and no reason to do without the others."""
Field = Literal[
    "image", "mask", "category", "exists", "Expectation", "Observation", "Diagnosis", "Summary", "Explanation"
]


class Mapping(BaseModel):
    """Where another shape keeps the fields; "a.b" is b inside a."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: str = ""
    images: str = ""
    fields: dict[Field, str] = {}

    def find(self, record: Any, field: Field) -> Any:
        """A field of a record; KeyError without it."""
        return _inside(record, self.fields.get(field, field))


@dataclass(frozen=True)
class Instruct:
    """A file of records and the folder that their paths begin in."""

    name: str
    file: Path
    images: Path

    def __len__(self) -> int:
        return len(_records(self.file))

    def read_lists(self) -> None:
        """The mapping, the places of the records, and which of them are of normal images."""
        _normal(self.file)

    def sample(self, index: int) -> Sample:
        """One image with its mask and texts; a record of a normal image has no mask.

        Raises:
            InputError: a field is missing or of another type, or a defect's Summary lacks [NOR][ANO][SEG].
        """
        mapping = read_mapping(self.file)
        source = f"{self.file}, record {index}"
        record = _records(self.file)[index]
        with naming(source):
            caption = _caption(record, mapping, source)
            category = str(mapping.find(record, "category"))
            root = self._root(mapping, record, source)
            image = below(root, mapping.find(record, "image"), source)
            mask = below(root, mapping.find(record, "mask"), source) if caption.exists else None
        kind = "anomaly" if caption.exists else "good"
        item = Item(image, mask, category, kind, caption.exists, image.name)
        painted = load_mask(item, image_size(image)) if mask else None
        return Sample(
            (image,),
            Source(self.name, self.file, index),
            ALL_ANCHORS if mask else (),
            anomaly=Anomaly(caption.exists, painted, category, kind),
            caption=caption,
        )

    def _root(self, mapping: Mapping, record: Any, source: str) -> Path:
        """The folder that a record's paths begin in: as the mapping says, or that of its own data set, or all sets'."""
        if mapping.images:
            return mapping_file(self.file).parent / mapping.images
        dataset = record.get("dataset")  # `agvas-data instruct` names the set apart from the image
        if isinstance(dataset, str) and dataset:
            own = below(self.images, dataset, source)
            if below(own, mapping.find(record, "image"), source).is_file():
                return own
        return self.images

    def half(self, *, anomalous: bool) -> Subset:
        """The records of normal images, or of defects; one that says neither is among the latter."""
        normal = _normal(self.file)
        if not anomalous:
            return Subset(self, normal, "normal")
        return Subset(self, np.setdiff1d(np.arange(len(self)), normal, assume_unique=True), "anomalous")

    def describe(self) -> Counts:
        """Records with and without defect, and categories, as far as the records can be read; reads every one."""
        mapping, found = read_mapping(self.file), _records(self.file)
        categories: set[str] = set()
        anomalous = normal = 0
        for index in range(len(found)):
            with suppress(*UNREADABLE):
                record = found[index]
                exists = bool(mapping.find(record, "exists"))
                categories.add(str(mapping.find(record, "category")))
                anomalous, normal = anomalous + exists, normal + (not exists)
        return Counts(len(self), len(self), anomalous, normal, anomalous, len(categories))


def mapping_file(file: Path) -> Path:
    """Where the mapping of a file of records stands if it has one."""
    return file.with_name(f"{file.stem}.mapping.yaml")


@cache
def read_mapping(file: Path) -> Mapping:
    """The mapping of a file of records; ours where there is none. Raises InputError naming what is wrong with it."""
    path = mapping_file(file)
    if not path.is_file():
        return Mapping()
    try:
        return Mapping.model_validate(read_yaml(path, "a mapping") or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _records(file: Path) -> Records | list[Any]:
    mapping = read_mapping(file)
    if not mapping.records:
        return records(file)
    with naming(file):
        found = _inside(read_json(file), mapping.records)
    if not isinstance(found, list):
        raise InputError(f"{file}: found {type(found).__name__} at {mapping.records!r}, expected a list of records")
    return found


@cache
def _normal(file: Path) -> NDArray[np.int64]:
    """The indexes of the records without a defect; every record is read, once a process."""
    mapping, found = read_mapping(file), _records(file)
    normal = []
    for index in range(len(found)):
        with suppress(*UNREADABLE):
            if mapping.find(found[index], "exists") is False:
                normal.append(index)
    return np.array(normal, np.int64)


def _inside(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[key]
    return value


def _caption(record: Any, mapping: Mapping, source: str) -> Caption:
    exists = mapping.find(record, "exists")
    texts = [mapping.find(record, field) for field in TEXTS]  # type: ignore[arg-type]
    if not isinstance(exists, bool):
        raise InputError(f"{source}: exists: found {exists!r}, expected true or false")
    for field, text in zip(TEXTS, texts, strict=True):
        if not isinstance(text, str):
            raise InputError(f"{source}: {field}: found {type(text).__name__}, expected a text")
    if exists and GROUP not in texts[TEXTS.index("Summary")]:
        raise InputError(f"{source}: Summary: found no {GROUP}, expected it where a defect exists")
    return Caption(exists, *texts)
