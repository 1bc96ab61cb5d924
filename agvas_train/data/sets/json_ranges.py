"""Random access to large JSON files: the file is parsed once, and only where each element stands is kept.

A list of a million annotations so costs some bytes an element, not some kilobytes; an element is parsed again when it
is asked for.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes

_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n]*([,:\]}]?)[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_MARK = "\xef\xbb\xbf"
"""UTF-8's byte order mark, read as Latin-1."""

Element = tuple[str, int, int, Any]
"""Name of the list or value, its first byte, the byte behind its last, and what it says (None in lists of records)."""


def read_element(path: Path, start: int, end: int) -> Any:
    """The element that stands in these bytes of a file. Raises InputError."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return json.loads(file.read(end - start))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found no UTF-8 in the element at bytes {start} to {end} ({error})") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: changed while in use, bytes {start} to {end} are no JSON ({error})") from None


def elements(path: Path) -> Iterator[Element]:
    """Every element of the lists that an object holds, `{"images": [...], "annotations": [...]}`; other values once.

    Raises:
        InputError: the file is not there or no such object.
    """
    text = _text(path)
    try:
        yield from _object(text)
    except (ValueError, IndexError, RecursionError) as error:
        raise InputError(f"{path}: found no JSON object ({error})") from None


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a JSON list or of JSON Lines."""

    path: Path
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Any:
        return read_element(self.path, int(self.starts[index]), int(self.ends[index]))


@cache
def records(path: Path) -> Records:
    """The records of a file, found once a process. Raises InputError when it is neither a list nor JSON Lines."""
    text, places = _text(path), array("q")
    try:
        at = _start(text)
        for _, start, end, _ in _list(text, at) if text[at : at + 1] == "[" else _lines(text, at):
            places.extend((start, end))
    except (ValueError, IndexError, RecursionError) as error:
        raise InputError(f"{path}: found neither a JSON list nor JSON Lines ({error})") from None
    starts, ends = np.array(places, np.int64).reshape(-1, 2).T
    return Records(path, starts, ends)


def _text(path: Path) -> str:
    """The file with a character a byte, so that places in the text are places in the file; both are held at once."""
    return read_bytes(path).decode("latin-1")


def _start(text: str) -> int:
    return _skip(text, len(_MARK) if text.startswith(_MARK) else 0)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _next(text: str, at: int, allowed: str) -> tuple[str, int]:
    """The separator at this place and where the next value begins."""
    found = _SEPARATOR.match(text, at)
    if found is None or found[1] == "" or found[1] not in allowed:
        raise ValueError(f"byte {at}: expected one of {' '.join(allowed)}")
    return found[1], found.end()


def _list(text: str, at: int, name: str = "") -> Generator[Element, None, int]:
    """The elements of the list that begins here; returns where it ends."""
    at = _skip(text, at + 1)
    if text[at] == "]":
        return at + 1
    separator = ","
    while separator == ",":
        value, end = _DECODER.raw_decode(text, at)
        if name and not (written := text[at:end]).isascii():
            value = json.loads(written.encode("latin-1"))
        yield name, at, end, value if name else None
        separator, at = _next(text, end, ",]")
    return at


def _lines(text: str, at: int) -> Iterator[Element]:
    while at < len(text):
        _, end = _DECODER.raw_decode(text, at)
        yield "", at, end, None
        at = _skip(text, end)


def _object(text: str) -> Iterator[Element]:
    at = _start(text)
    if text[at] != "{":
        raise ValueError(f"byte {at}: expected an object")
    at = _skip(text, at + 1)
    separator = "}" if text[at] == "}" else ","
    while separator == ",":
        name, at = _DECODER.raw_decode(text, at)
        _, at = _next(text, at, ":")
        if text[at] == "[":
            at = yield from _list(text, at, name)
        else:
            value, end = _DECODER.raw_decode(text, at)
            yield name, at, end, value
            at = end
        separator, at = _next(text, at, ",}")
