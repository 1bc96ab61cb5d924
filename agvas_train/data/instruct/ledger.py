"""The output folder: records.jsonl and aside.jsonl, a line each, that survive a kill at any moment; and sets.json.

A line is appended by one write and reaches the disk within a second. A process that dies leaves at most half a line at
the end, which the next one drops; a record that lacks its newline alone, as editors leave it, gets one. One process at
a time writes to a folder.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agvas_runtime.console import note, one_line
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import lock_folder, make_folder, write_whole

RECORDS, ASIDE, SETS = "records.jsonl", "aside.jsonl", "sets.json"
SYNC_EVERY_S = 1.0
_BLOCK = 65536

Line = dict[str, Any]


class Ledger:
    """An output folder that is being written to; a context manager."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder and mend its files.

        Raises:
            InputError: another process writes there, or a file holds something else.
            EngineError: the folder cannot be written to.
        """
        taken = "another process writes its records here; give this one its own --out"
        self._lock = lock_folder(make_folder(folder), taken)
        try:
            self._records, self._aside = _Lines(folder / RECORDS), _Lines(folder / ASIDE)
            self.done = {_key(line) for line in self._records.read()}
            """(data set, image) of every record."""
            self.put_aside = {_key(line) for line in self._aside.read()} - self.done
            """The same of every image that was set aside."""
            self._file = folder / SETS
            self._folders = _folders(self._file)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()
        self._aside.close()
        os.close(self._lock)

    def claim(self, dataset: str, folder: Path) -> None:
        """Note the folder of a data set: records know it by its name alone, so two sets here cannot share one.

        Raises InputError where the name is known with another folder, EngineError where the disk does not take it.
        """
        found = os.path.realpath(folder)
        known = self._folders.setdefault(dataset, found)
        if known != found:
            what = f"data set {dataset!r}: found {found}, expected {known}"
            raise InputError(f"{self._file}: {what}; give another set its own --out, or mend this file if it was moved")
        write_whole(self._file, (json.dumps(self._folders, indent=2) + "\n").encode("ascii"))

    def record(self, line: Line) -> None:
        """Append a record; raises EngineError where the disk does not take it, and nothing of it is left then."""
        self._records.append(line)
        self.done.add(_key(line))

    def set_aside(self, line: Line) -> None:
        """Append what is set aside, in the same way."""
        self._aside.append(line)
        self.put_aside.add(_key(line))


def _folders(file: Path) -> dict[str, str]:
    """The folder of each data set that was claimed; none where the file is not there. Raises InputError."""
    try:
        folders = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: cannot read: {one_line(str(error))}") from None
    if not isinstance(folders, dict) or not all(isinstance(folder, str) for folder in folders.values()):
        raise InputError(f"{file}: found something else, expected JSON with a folder for each data set's name")
    return folders


def _key(line: Line) -> tuple[str, str]:
    return line["dataset"], line["image"]


class _Lines:
    """A file of JSON lines that is only ever appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._end = _whole(self._file)
            rest = os.fstat(self._file).st_size - self._end
            if rest and _record(os.pread(self._file, rest, self._end)) is not None:
                self._end += rest + os.write(self._file, b"\n")
            elif dropped := rest:
                os.ftruncate(self._file, self._end)
                note(f"{path}: dropped {dropped} bytes of an unfinished line at its end")
        except OSError as error:
            raise EngineError(f"{path}: cannot write: {error.strerror}") from None
        self._synced = time.monotonic()

    def read(self) -> Iterator[Line]:
        """All lines; raises InputError for one that is no record."""
        with self._path.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                line = _record(text)
                if line is None:
                    what = f"{self._path}: line {number} is no record of this command"
                    raise InputError(f'{what}, expected JSON with "dataset" and "image"')
                yield line

    def append(self, line: Line) -> None:
        data = json.dumps(line).encode("ascii") + b"\n"
        try:
            if os.write(self._file, data) != len(data):
                raise OSError(28, "No space left on device")
            self._end += len(data)
            if time.monotonic() - self._synced > SYNC_EVERY_S:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise EngineError(f"{self._path}: cannot write: {error.strerror}") from None

    def close(self) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


def _record(text: bytes) -> Line | None:
    """The record in a line; None where there is none."""
    try:
        line: Line = json.loads(text)
        return line if all(isinstance(part, str) for part in _key(line)) else None
    except (ValueError, KeyError, TypeError):
        return None


def _whole(file: int) -> int:
    """Where the last whole line ends."""
    at = os.fstat(file).st_size
    while at:
        begin = max(at - _BLOCK, 0)
        if (found := os.pread(file, at - begin, begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        at = begin
    return 0
