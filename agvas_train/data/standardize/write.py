"""Writing a standardised set's files: MVTec's folders, in a folder that takes its name at the end; all or nothing."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime.errors import InputError
from agvas_runtime.frames import decode_image, read_bytes
from agvas_train.data.standardize.parts import Box, Found, Part, plain, ranked, truth_of

Scalar = TypeVar("Scalar", bound=np.generic)


def check_free(place: Path) -> None:
    """Raise InputError where something is there already."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place}: already there, expected nothing; move it away, or name another --out")


class Written(NamedTuple):
    """A part that is written."""

    part: Part
    record: dict[str, Any]
    """Of meta.json."""
    files: dict[str, dict[str, Any]]
    """Its image and its mask: what each was made of, and its hash."""


def check_names(parts: Iterable[Part]) -> None:
    """Raise InputError where two images want one name, or a name is that of no file."""
    taken: dict[str, Path] = {}
    for part in parts:
        for word in (part.category, part.kind, part.stem):
            plain(word, part.image)
        name = _name(part)
        if name in taken:
            raise InputError(f"{part.image}: found the name {name} for {taken[name]} too, expected it once")
        taken[name] = part.image


def write_parts(folder: Path, found: Found, source: Path, seed: int | None) -> Iterator[Written]:
    """Write the images and masks of a set; what cannot be decoded, and an image whose mask is empty, is left out.

    Images are copied byte by byte, pieces of them written as PNG; masks are PNG of 0 and 255.

    Args:
        folder: of the set.
        found: its parts; what is left out is put there.
        source: the download.
        seed: draws of each category as many normal images as defective ones were written; None takes all.

    Raises:
        OSError: a file cannot be written.
    """
    defective = [part for part in found.parts if part.mask is not None]
    normal = [part for part in found.parts if part.mask is None]
    written: Counter[str] = Counter()
    for part in defective:
        if done := _written(folder, part, found, source):
            written[part.category] += 1
            yield done
    if seed is not None:
        normal = ranked(seed, normal, lambda part: f"{part.category}/{part.stem}")
    for part in normal:
        if (seed is None or written[part.category]) and (done := _written(folder, part, found, source)):
            written[part.category] -= 1
            yield done


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write JSON. Raises OSError."""
    path.write_bytes((json.dumps(document, indent=1) + "\n").encode("ascii"))


def _name(part: Part) -> str:
    return f"{part.category}/{part.phase}/{part.kind}/{part.stem}"


def _written(folder: Path, part: Part, found: Found, source: Path) -> Written | None:
    """A part that is written now; None where it is left out."""
    try:
        data = read_bytes(part.image)
        pixels = decode_image(data, str(part.image))
        truth = None if part.mask is None else _cut(truth_of(part, pixels.shape[:2]), part.box)
    except InputError as error:
        found.leave_out(part.image, error)
        return None
    if part.mask is not None and truth is not None and not truth.any():
        found.leave_out(part.image, f"its mask {part.mask.name} is empty")
        return None
    image, mask = _name(part) + (".png" if part.box else part.image.suffix.lower()), ""
    data = _png(_cut(pixels, part.box)) if part.box else data
    files = {image: _line(folder / image, data, source, part.image, part.box)}
    if part.mask is not None and truth is not None:
        mask = f"{part.category}/ground_truth/{part.kind}/{part.stem}_mask.png"
        data = _png(truth.astype(np.uint8) * np.uint8(255))
        files[mask] = _line(folder / mask, data, source, part.mask, part.box)
    record = {"img_path": image, "mask_path": mask, "cls_name": part.category, "specie_name": part.kind}
    return Written(part, record | {"anomaly": int(part.mask is not None)}, files)


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
