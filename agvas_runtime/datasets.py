"""Anomaly segmentation data sets on disk: AnomalyCLIP's meta.json, Bayes-PFL's meta_<SET>.json, plain MVTec folders.

With or without masks; and plain folders of images, of which nothing is known. Only lists files and reads masks; images
are read by frames.py. Nothing is downloaded.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import SUFFIXES, nominal_range, open_image, read_bytes, upright


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
    """List a data set: a folder with meta.json (or one meta_<SET>.json, or such a file itself), or MVTec's folders.

    A category whose defective images all lack masks is listed without; so is a folder that holds images and nothing
    else, with nothing known of them. Raises InputError when there is no data set, or when a listed file is not there.
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such data set")
    meta = meta_file(root)
    items = list(items_of_meta(meta) if meta else items_of_folders(root)) or list(_from_plain(root))
    if not items:
        raise InputError(
            f"{root}: no data set here (neither meta.json nor <category>/test/<kind>/ with images, nor images)"
        )
    categories: dict[str, list[Item]] = {}
    for item in items:
        _check_files(item)
        categories.setdefault(item.category, []).append(item)
    for listed in categories.values():
        _check_masks(listed)
    return Dataset(root.stem if root.is_file() else root.resolve().name, categories)


def load_mask(item: Item, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Ground truth bool [H,W] of an image of this (H, W): defect is what lies above half of the mask format's range.

    In a mask whose largest value is 1, what lies above 0. Raises InputError for a mask of another size, and for one
    that holds something but nothing that counts as defect.
    """
    if item.mask is None:
        return np.zeros(size, np.bool_)
    name = str(item.mask)
    image = open_image(read_bytes(item.mask), name)
    deep = image.mode.startswith("I")
    grey = np.asarray(image if deep or image.mode == "L" else image.convert("RGB").convert("L"))
    half = (nominal_range(image, name) + 1) // 2 if deep else 128
    mask = upright(grey >= (1 if grey.max() == 1 else half), image)
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
    beside = root.resolve().parent / f"meta_{root.resolve().name}.json"
    for meta in (root / "meta.json", beside):
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
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"{meta}: not a data set's list ({reason})") from None


def _from_record(meta: Path, category: str, record: dict[str, Any]) -> Item:
    anomalous = bool(int(record["anomaly"]))
    kind = record.get("specie_name") or ("anomaly" if anomalous else "good")
    if not isinstance(kind, str):
        raise TypeError(f"specie_name {kind!r}")
    mask = _below(meta, record.get("mask_path") or "") if anomalous else None
    return Item(
        image=_below(meta, record["img_path"]),
        mask=mask if mask and not mask.is_dir() else None,  # a folder is how the peers say that there is none
        category=category,
        kind=kind,
        anomalous=anomalous,
        name=PurePosixPath(record["img_path"]).as_posix(),
    )


def _below(meta: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{meta}: {name!r} leaves the data set's folder")
    return meta.parent / name


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
                yield Item(image, mask, category.resolve().name, kind.name, anomalous, name)


def _from_plain(root: Path) -> Iterator[Item]:
    for image in _images_in(root) if root.is_dir() else []:
        yield Item(image, None, root.resolve().name, "unlabelled", None, image.name)


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
