"""Writing a standardised set's files: MVTec's folders, in a folder that takes its name at the end; all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import make_folder
from agvas_runtime.frames import read_bytes, read_image
from agvas_train.data.sets.reading import image_size
from agvas_train.data.standardize.parts import Box, Found, Part, truth_of

Scalar = TypeVar("Scalar", bound=np.generic)


def check_free(place: Path) -> None:
    """Raise InputError where something is there already."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place}: already there, expected nothing; move it away, or name another --out")


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A hidden folder beside the place that takes its name at the end; goes where anything fails.

    Raises:
        InputError: the folder around the place cannot be made.
        EngineError: a file cannot be written.
    """
    make_folder(place.parent)
    work = None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        yield work
        umask = os.umask(0)
        os.umask(umask)
        work.chmod(0o777 & ~umask)
        work.replace(place)
    except OSError as error:
        raise EngineError(f"{place}: cannot write: {error.strerror or error}") from None
    finally:
        if work:
            shutil.rmtree(work, ignore_errors=True)


class Written(NamedTuple):
    """A part that is written."""

    part: Part
    record: dict[str, Any]
    """Of meta.json."""
    files: dict[str, dict[str, Any]]
    """Its image and its mask: what each was made of, and its hash."""


def write_parts(folder: Path, found: Found, source: Path) -> Iterator[Written]:
    """Write the images and masks of a set, in an order of their own; an image whose mask is empty is left out.

    Images are copied byte by byte, pieces of them written as PNG; masks are PNG of 0 and 255.

    Raises:
        InputError: a file cannot be read, or two images want one name.
        OSError: a file cannot be written.
    """
    taken: dict[str, Path] = {}
    for part in sorted(found.parts, key=lambda part: (part.phase, part.category, part.kind, part.stem)):
        name = f"{part.category}/{part.phase}/{part.kind}/{part.stem}"
        if name in taken:
            raise InputError(f"{part.image}: found the name {name} for {taken[name]} too, expected it once")
        taken[name] = part.image
        image, mask = name + (".png" if part.box else part.image.suffix.lower()), ""
        files = {image: _line(folder / image, _piece(part) if part.box else _copy(part), source, part.image, part.box)}
        if part.mask is not None:
            truth = _cut(truth_of(part), part.box)
            if not truth.any():
                found.left_out[str(part.image)] = f"its mask {part.mask.name} is empty"
                (folder / image).unlink()
                continue
            mask = f"{part.category}/ground_truth/{part.kind}/{part.stem}_mask.png"
            data = _png(truth.astype(np.uint8) * np.uint8(255))
            files[mask] = _line(folder / mask, data, source, part.mask, part.box)
        record = {"img_path": image, "mask_path": mask, "cls_name": part.category, "specie_name": part.kind}
        yield Written(part, record | {"anomaly": int(part.mask is not None)}, files)


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write JSON. Raises OSError."""
    path.write_bytes((json.dumps(document, indent=1) + "\n").encode("ascii"))


def _copy(part: Part) -> bytes:
    image_size(part.image)  # refuses by name what is no image
    return read_bytes(part.image)


def _piece(part: Part) -> bytes:
    return _png(_cut(read_image(part.image), part.box))


def _cut(pixels: NDArray[Scalar], box: Box | None) -> NDArray[Scalar]:
    return pixels if box is None else pixels[box[1] : box[3], box[0] : box[2]]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _line(path: Path, data: bytes, source: Path, made_of: Path, box: Box | None) -> dict[str, Any]:
    """Write a file, and say what it was made of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    line: dict[str, Any] = {
        "source": made_of.relative_to(source).as_posix(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return line | ({"box": box} if box else {})
