"""Anomaly segmentation data sets on disk: AnomalyCLIP's meta.json, Bayes-PFL's meta_<SET>.json, VisA's csv, folders.

The folders are MVTec's, with or without masks, or hold images alone, of which nothing is known. Only lists files and
reads masks; images are read by frames.py. Nothing is downloaded.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import SUFFIXES, nominal_range, open_image, read_bytes, upright

VISA_SPLIT = Path("split_csv") / "1cls.csv"
"""VisA's own list; its masks hold the numbers of the defects."""


@dataclass(frozen=True)
class Item:
    """One image of a data set."""

    image: Path
    mask: Path | None
    """The ground truth; None for a normal image, and where there is none."""
    category: str
    kind: str
    """The defect's name, "good" for a normal image, "unlabelled" where nothing is known."""
    anomalous: bool | None
    """None where nothing is known."""
    name: str
    """The image's path below the data set's folder, with "/"."""
    numbered: bool = False
    """Whether every value of the mask but 0 is defect."""

    @property
    def has_truth(self) -> bool:
        """Whether it is known which pixels are defective."""
        return self.mask is not None or self.anomalous is False


@dataclass(frozen=True)
class Dataset:
    """A data set's test images by category."""

    name: str
    categories: dict[str, list[Item]]

    @property
    def items(self) -> list[Item]:
        """All images, category by category."""
        return [item for items in self.categories.values() for item in items]


def load_dataset(root: Path | str) -> Dataset:
    """List a data set: a folder with meta.json (or one meta_<SET>.json, or such a file itself), VisA's csv, or folders.

    The folders are MVTec's. A link to a data set is known by the link's own name. A category whose defective images all
    lack masks is listed without; so is a folder that holds images and nothing else, with nothing known of them. Raises
    InputError when there is no data set, or when a listed file is not there.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such data set")
    items = list(_listed(root)) or list(_from_plain(root))
    if not items:
        looked_for = f"neither meta.json nor {VISA_SPLIT} nor <category>/test/<kind>/ with images, nor images"
        raise InputError(f"{root}: no data set here ({looked_for})")
    categories: dict[str, list[Item]] = {}
    for item in items:
        _check_files(item)
        categories.setdefault(item.category, []).append(item)
    for listed in categories.values():
        _check_masks(listed)
    return Dataset(root.stem if root.is_file() else _name(root), categories)


def _listed(root: Path) -> Iterator[Item]:
    if meta := meta_file(root):
        return items_of_meta(meta)
    return items_of_visa(root) if (root / VISA_SPLIT).is_file() else items_of_folders(root)


def _place(root: Path) -> Path:
    """Where a data set is by the name it was given: of a link its own place, not its target's."""
    return root.resolve() if ".." in root.parts else root.absolute()  # .. leads out of a link's target


def _name(root: Path) -> str:
    return _place(root).name


def load_mask(item: Item, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Ground truth bool [H,W] of an image of this (H, W): defect is what lies above half of the mask format's range.

    In a mask whose largest value is 1, and in a numbered one, what lies above 0. Raises InputError for a mask of
    another size, and for one that holds something but nothing that counts as defect.
    """
    if item.mask is None:
        return np.zeros(size, np.bool_)
    name = str(item.mask)
    image = open_image(read_bytes(item.mask), name)
    deep = image.mode.startswith("I")
    if deep or image.mode == "L" or (item.numbered and image.mode == "P"):  # numbers, whatever their colours are
        grey = np.asarray(image)
    else:
        colours = image.convert("RGB")
        grey = np.asarray(colours).max(axis=2) if item.numbered else np.asarray(colours.convert("L"))
    half = (nominal_range(image, name) + 1) // 2 if deep else 128
    mask = upright(grey >= (1 if item.numbered or grey.max() == 1 else half), image)
    if mask.shape != size:
        sides = f"{mask.shape[1]} x {mask.shape[0]}, its image {item.image} {size[1]} x {size[0]}"
        raise InputError(f"{name}: the mask is {sides}; must be the same")
    if grey.any() and not mask.any():
        raise InputError(f"{name}: the mask's largest value is {grey.max()}, but defect begins at {half}; scale it")
    return mask


def meta_file(root: Path) -> Path | None:
    """The list of a data set, if it has one. Raises InputError where there are several."""
    if root.is_file():
        return root
    beside = [place.with_name(f"meta_{place.name}.json") for place in (_place(root), root.resolve()) if place.name]
    for meta in (root / "meta.json", *beside):
        if meta.is_file():
            return meta
    several = sorted(root.glob("meta_*.json"))
    if len(several) > 1:
        raise InputError(
            f"{root}: several data sets ({', '.join(meta.name for meta in several)}): name one of the files"
        )
    return several[0] if several else None


def items_of_meta(meta: Path) -> Iterator[Item]:
    """What such a list names, its files not looked at. Raises InputError for a file that is none."""
    try:
        phase: dict[str, list[dict[str, Any]]] = json.loads(read_bytes(meta))["test"]
        records = [(category, record) for category, listed in phase.items() for record in listed]
        for category, record in records:
            if record["img_path"]:  # Bayes-PFL marks an empty phase by one record without a path
                yield _from_record(meta, category, record)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _no_list(meta, error) from None


def items_of_visa(root: Path) -> Iterator[Item]:
    """What VisA's csv names for testing, its files not looked at. Raises InputError for a file that is none."""
    split = root / VISA_SPLIT
    try:
        for row in csv.DictReader(io.StringIO(read_bytes(split).decode("utf-8-sig"))):
            if row["split"] != "test":
                continue
            name, anomalous = row["image"], row["label"] != "normal"
            image = _below(root, name, split)
            mask = _below(root, row["mask"], split) if anomalous and row["mask"] else None
            yield Item(image, mask, row["object"], "anomaly" if anomalous else "good", anomalous, name, numbered=True)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise _no_list(split, error) from None


def _no_list(file: Path, error: Exception) -> InputError:
    reason = f"no field {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return InputError(f"{file}: not a data set's list ({reason})")


def _from_record(meta: Path, category: str, record: dict[str, Any]) -> Item:
    anomalous = bool(int(record["anomaly"]))
    kind = record.get("specie_name") or ("anomaly" if anomalous else "good")
    if not isinstance(kind, str):
        raise TypeError(f"specie_name {kind!r}")
    mask = _below(meta.parent, record.get("mask_path") or "", meta) if anomalous else None
    return Item(
        image=_below(meta.parent, record["img_path"], meta),
        mask=mask if mask and not mask.is_dir() else None,  # a folder is how the peers say that there is none
        category=category,
        kind=kind,
        anomalous=anomalous,
        name=PurePosixPath(record["img_path"]).as_posix(),
    )


def _below(folder: Path, name: str, listing: Path) -> Path:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{listing}: {name!r} leaves the data set's folder")
    return folder / name


def items_of_folders(root: Path) -> Iterator[Item]:
    """The images of folders in MVTec's layout."""
    single = (root / "test").is_dir()
    for category in [root] if single else sorted(path for path in _shown(root) if (path / "test").is_dir()):
        has_masks = (category / "ground_truth").is_dir()
        for kind in sorted(path for path in _shown(category / "test") if path.is_dir()):
            for image in _images_in(kind):
                anomalous = kind.name != "good"
                mask = _folder_mask(category, image) if anomalous and has_masks else None
                name = image.relative_to(root).as_posix()
                yield Item(image, mask, _name(category), kind.name, anomalous, name)


def _from_plain(root: Path) -> Iterator[Item]:
    for image in _images_in(root) if root.is_dir() else []:
        yield Item(image, None, _name(root), "unlabelled", None, image.name)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in _shown(folder) if path.suffix.lower() in SUFFIXES and path.is_file())


def _shown(folder: Path) -> Iterator[Path]:
    """What a folder holds, without hidden files, which systems and editors leave."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _folder_mask(category: Path, image: Path) -> Path:
    folder = category / "ground_truth" / image.parent.name
    names = (f"{image.stem}_mask.png", f"{image.stem}.png", f"{image.stem}_mask{image.suffix}", image.name)
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _check_files(item: Item) -> None:
    if not item.image.is_file():
        raise InputError(f"{item.image}: the data set lists this image, but there is none")
    if item.mask is not None and not item.mask.is_file():
        raise InputError(f"{item.mask}: the data set lists this mask, but there is none")


def _check_masks(items: list[Item]) -> None:
    """A defective image without a mask among others with one has lost it, and would change what is averaged over."""
    missing = next((item for item in items if item.anomalous and item.mask is None), None)
    if missing and any(item.mask for item in items):
        raise InputError(f"{missing.image}: no pixel labels, but others of category {missing.category!r} have masks")
