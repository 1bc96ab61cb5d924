"""How a download's own folders are found, wherever below the source they were unpacked; two of them are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_runtime.frames import SUFFIXES

DEEPEST = 3
"""Folders below the source in which a download's own folders are looked for."""


def images_in(folder: Path) -> list[Path]:
    """A folder's images by name; hidden files are none."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def levels(source: Path) -> Iterator[list[Path]]:
    """The source, the folders in it, those in them; no hidden ones, nor what macOS adds to an archive."""
    level = [source]
    for _ in range(DEEPEST + 1):
        yield level
        inner = sorted(path for folder in level for path in folder.iterdir() if path.is_dir())
        level = [path for path in inner if path.name[0] != "." and path.name != "__MACOSX"]


def nearest(source: Path, fits: Callable[[Path], bool]) -> list[Path]:
    """All folders that fit of the nearest level that has one."""
    return next((found for level in levels(source) if (found := [path for path in level if fits(path)])), [])


def only(source: Path, found: Sequence[Path], what: str) -> Path:
    """The one that was found. Raises InputError where there are several."""
    if len(found) > 1:
        names = ", ".join(path.relative_to(source).as_posix() for path in found)
        raise InputError(f"{source}: found {what} {len(found)} times ({names}), expected it once: name one of them")
    return found[0]


def find_folder(source: Path, what: str, *wanted: str) -> Path:
    """The nearest place that holds all these folders. Raises InputError where there is none, or several."""
    if found := nearest(source, lambda place: all((place / name).is_dir() for name in wanted)):
        return only(source, found, what)
    raise InputError(f"{source}: found no {' and '.join(wanted)}, expected the folders of {what}'s original download")


def find_pair(source: Path, what: str, *known: tuple[str, str]) -> tuple[Path, Path]:
    """The folders of images and of masks, side by side, under the first of these pairs of patterns that is there.

    Of several places at one level the one whose name says what it is (the last word of `what`). Raises InputError where
    there is none, or several.
    """
    own = _letters(what.rpartition("-")[2])
    for pair in known:
        if places := nearest(source, partial(_holds, pair)):
            place = only(source, [path for path in places if own in _letters(path.name)] or places, what)
            images, masks = (only(source, _of_images(place, name), f"{what}'s {name!r}") for name in pair)
            return images, masks
    names = " or ".join(f"{images!r} with {masks!r}" for images, masks in known)
    raise InputError(f"{source}: found no such folders, expected {what}'s original download: {names}")


def _holds(pair: tuple[str, str], place: Path) -> bool:
    return all(_of_images(place, name) for name in pair)


def _of_images(place: Path, pattern: str) -> list[Path]:
    """The folders of this name that hold images, or lie in one of the same name and hold them there."""
    named = [path for path in sorted(place.glob(pattern)) if path.is_dir()]
    return [folder for path in named for folder in (path, path / path.name) if images_in(folder)]


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
