"""Small readers that several formats share; every fault becomes one InputError that names the file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from agvas_runtime import strict_yaml
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_runtime.strict_yaml import shown
from agvas_train.data.sets.sample import Size

_ORIENTATION = 274


class Texts:
    """Texts in one piece of memory: each takes its UTF-8 and eight bytes.

    As objects of their own they would take some 60 bytes more, and a loading process would copy each that it touches.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q", (0,))
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """One more at the end; halves of UTF-16 pairs are kept as they are."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        place = range(len(self))[index]
        return self._bytes[self._ends[place] : self._ends[place + 1]].decode("utf-8", "surrogatepass")


@contextmanager
def naming(thing: object) -> Iterator[None]:
    """Turn what a malformed record causes inside the block into an InputError about `thing`."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"{thing}: found no {error}, expected it") from None
    except OSError as error:
        place = f": {shown(error.filename)}" if error.filename else ""  # which may be as long as a text
        raise InputError(f"{thing}: {error.strerror or error}{place}") from None
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{thing}: not as its format says ({reason})") from None


def below(root: Path, name: str, source: object) -> Path:
    """The file of this name under a folder. Raises InputError where the name leaves it."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{source}: found the path {name!r}, expected one below {root}")
    return root / pure


@cache
def stems(folder: Path, suffix: str) -> Texts:
    """The names, without their suffix, of a folder's files of one suffix, in order; read once a process."""
    return Texts(sorted(path.stem for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")))


def read_json(path: Path) -> Any:
    """A JSON document in UTF-8, or in cp1252 where it is not UTF-8. Raises InputError."""
    data = read_bytes(path)
    try:
        try:
            return json.loads(data.decode("utf-8-sig"))
        except UnicodeDecodeError:
            return json.loads(data.decode("cp1252"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: found no JSON document ({' '.join(str(error).split())})") from None


def read_yaml(path: Path, kind: str) -> Any:
    """The value of a YAML document of plain values in which no name stands twice. Raises InputError.

    Args:
        path: of the document.
        kind: what it should be, for errors: "a mapping".
    """
    data = read_bytes(path)
    try:
        return strict_yaml.load(data, kind)
    except InputError as error:
        raise InputError(f"{path}: found no YAML of plain values ({error})") from None


def image_size(path: Path) -> Size:
    """Height and width of an image as it is shown upright, from its header. Raises InputError."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # decoders raise nearly anything
        raise InputError(f"{path}: no readable image header ({' '.join(str(error).split())})") from None
    return (width, height) if turned else (height, width)
