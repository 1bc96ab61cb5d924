"""What an evaluation has found so far, on disk, so that an interrupted one goes on image by image.

Lies in OUT/unfinished: `settings.json`; of every finished category its row and records; of the current one every
image's record and pixels, 4 bytes a pixel. Goes when the results are written.
OUT/.lock is held by the process that evaluates.
"""

import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from pydantic import TypeAdapter, ValidationError

from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.rows import Row, row_of, without_nan
from agvas_runtime.evaluate.score import Record, Scored
from agvas_runtime.files import lock_folder, make_folder, write_whole
from agvas_runtime.metrics import Pixels

SETTINGS = "settings.json"
_ROW, _RECORD, _TEXTS = TypeAdapter(Row), TypeAdapter(Record), TypeAdapter(tuple[str, str])


class Finished(NamedTuple):
    """A category that is done."""

    row: Row
    records: list[Record]
    instruction: str
    note: str


@contextmanager
def open_unfinished(out: Path | None, settings: Mapping[str, Any], resume: bool) -> Iterator[Path | None]:
    """The folder OUT/unfinished for an evaluation with these settings, which begins or goes on; None without OUT.

    While inside, no other process evaluates into OUT. Raises InputError where one does, or OUT holds something else.
    """
    if out is None:
        yield None
        return
    lock = lock_folder(make_folder(out), "another process evaluates into this folder now; name another --out")
    try:
        check_out(out, settings, resume)
        folder = out / "unfinished"
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2).encode())
        yield folder
    finally:
        os.close(lock)


def check_out(out: Path, settings: Mapping[str, Any], resume: bool) -> None:
    """Raise InputError where no evaluation with these settings can begin or go on; makes nothing."""
    folder = out / "unfinished"
    file = folder / SETTINGS
    # an image's picture is written before its figures are kept
    begun = folder.is_dir() and any(path != file or _holds(out / "pictures") for path in folder.iterdir())
    if not begun:
        earlier = [name for name in ("pictures", "results.json") if _holds(out / name)]
        if earlier:
            raise InputError(f"{out / earlier[0]}: holds an earlier evaluation's {earlier[0]}; name another --out")
    elif not resume:
        raise InputError(f"{folder}: holds an interrupted evaluation; go on with --resume, or delete it")
    else:
        _check_same(file, settings)


def _holds(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _check_same(file: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{file}: not readable, so nothing here can be resumed; delete {file.parent}") from None
    if not isinstance(before, dict):
        found = f"found {one_line(repr(before))[:60]}, expected an object"
        raise InputError(f"{file}: {found}, so nothing here can be resumed; delete {file.parent}")
    now = json.loads(json.dumps(settings))
    for name in {**now, **before}:
        if before.get(name) != now.get(name):
            found = f"found {before.get(name)!r}, expected {now.get(name)!r}"
            raise InputError(f"{file}: {name}: {found}; --resume goes on with the interrupted run's settings only")


def save_image(place: Path, scored: Scored, note: str) -> None:
    """Keep an image's record and pixels as `place`.json and `place`.npz. Raises EngineError."""
    if scored.pixels is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **scored.pixels._asdict())
        write_whole(place.with_suffix(".npz"), buffer.getvalue())
    kept = {"record": asdict(scored.record), "instruction": scored.instruction, "note": note,
            "labelled": scored.pixels is not None}  # fmt: skip
    write_whole(place.with_suffix(".json"), json.dumps(kept).encode())  # last: an image with this file is done


def load_image(place: Path) -> tuple[Scored, str] | None:
    """What `save_image` kept, and the note; None where that was not done. Raises InputError where it is damaged."""
    try:
        kept = json.loads(place.with_suffix(".json").read_text("utf-8"))
        pixels = None
        if kept["labelled"]:
            with np.load(place.with_suffix(".npz"), allow_pickle=False) as arrays:
                pixels = Pixels(arrays["sound"], arrays["defective"], arrays["region"])
        said = _TEXTS.validate_python((kept["instruction"], kept["note"]), strict=True)
        return Scored(_RECORD.validate_python(kept["record"]), pixels, said[0]), said[1]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, RecursionError) as error:
        raise _damaged(place, error) from None


def save_category(folder: Path, number: int, finished: Finished) -> None:
    """Keep a category's row and records in place of its images. Raises EngineError."""
    kept = {"row": without_nan(finished.row), "records": [asdict(record) for record in finished.records],
            "instruction": finished.instruction, "note": finished.note}  # fmt: skip
    write_whole(folder / f"{number:04d}.json", json.dumps(kept).encode())
    shutil.rmtree(folder / f"{number:04d}", ignore_errors=True)


def load_category(folder: Path, number: int) -> Finished | None:
    """What `save_category` kept; None where that was not done. Raises InputError where it is damaged."""
    path = folder / f"{number:04d}.json"
    try:
        kept = json.loads(path.read_text("utf-8"))
        row = _ROW.validate_python(vars(row_of(kept["row"])))
        records = [_RECORD.validate_python(record) for record in kept["records"]]
        return Finished(row, records, *_TEXTS.validate_python((kept["instruction"], kept["note"]), strict=True))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    said = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return InputError(f"{path}: damaged ({one_line(said)}); delete it to score it again")
