"""What of a data set is asked about: one task an image, and the normal images that it may be shown beside."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from agvas_runtime.datasets import Dataset, Item, load_dataset
from agvas_runtime.errors import InputError
from agvas_runtime.frames import SUFFIXES


@dataclass(frozen=True)
class Task:
    """An image to ask about."""

    dataset: str
    item: Item

    @property
    def key(self) -> tuple[str, str]:
        """What a record is known by: the data set's name and the image's path below its folder."""
        return self.dataset, self.item.name

    @property
    def mask_name(self) -> str:
        """The mask's path below the data set's folder, with "/"; "" for a normal image."""
        return below(self.item, self.item.mask) if self.item.mask else ""


@dataclass(frozen=True)
class Plan:
    """A data set's tasks, category by category."""

    tasks: list[Task]
    normals: dict[str, list[Path]]
    """The normal images of each category."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Why an image is not asked about, by its path below the data set's folder."""


def make_plan(root: Path, shard: tuple[int, int] = (1, 1), defects_only: bool = False) -> Plan:
    """What to ask about the images of a data set that load_dataset reads.

    Normal images are those of the test set, and those in `train/good` beside a `test` folder that holds an image.

    Args:
        root: the data set.
        shard: (I, N): only the I-th of N parts, 1 <= I <= N. The parts depend on nothing but the images' names.
        defects_only: leave the normal images out; they are still shown beside the others.

    Raises InputError where the data set cannot be read or holds nothing to ask about.
    """
    dataset = load_dataset(root)
    normals = {category: _normals(items) for category, items in dataset.categories.items()}
    plan, seen = Plan([], normals), set()
    for item in dataset.items:
        if item.name in seen or (defects_only and item.anomalous is False):
            continue
        seen.add(item.name)
        task = Task(dataset.name, item)
        if reason := _hindrance(item, normals[item.category]):
            plan.unusable[item.name] = reason
        elif in_shard(task.key, *shard):
            plan.tasks.append(task)
    if len(plan.unusable) == len(seen):
        raise InputError(f"{root}: {_why(plan, dataset)}")
    return plan


def in_shard(key: tuple[str, str], part: int, parts: int) -> bool:
    """Whether a key belongs to the `part`-th, from 1, of so many parts."""
    digest = hashlib.sha256("\0".join(key).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % parts == part - 1


def below(item: Item, path: Path) -> str:
    """A file's path below the folder of an item's data set, with "/"."""
    return Path(os.path.relpath(path, folder_of(item))).as_posix()


def folder_of(item: Item) -> Path:
    """The folder that the names of an item's data set begin in."""
    return item.image.parents[len(PurePosixPath(item.name).parts) - 1]


def _hindrance(item: Item, normals: list[Path]) -> str | None:
    if item.anomalous is None:
        return "it is not known whether it has a defect"
    if item.anomalous and item.mask is None:
        return "it has no mask"
    if not any(path != item.image for path in normals):
        return f"category {item.category!r} has no {'other ' if normals else ''}normal image to show beside it"
    return None


def _normals(items: list[Item]) -> list[Path]:
    folders = {item.image.parents[1].with_name("train") / "good" for item in items if _in_test(item.image)}
    train = [
        path
        for folder in sorted(folders)
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    return sorted({item.image for item in items if item.anomalous is False} | set(train))


def _in_test(image: Path) -> bool:
    return len(image.parents) > 2 and image.parents[1].name == "test"


def _why(plan: Plan, dataset: Dataset) -> str:
    if not plan.unusable:
        return f"no defective image among {len(dataset.items)}, expected some to ask about"
    name, reason = next(iter(plan.unusable.items()))
    return f"no image can be asked about, such as {name}: {reason}"
