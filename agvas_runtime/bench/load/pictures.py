"""The frames that the cameras send: files or generated ones, as raw pixels or as an encoded image."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime.bench.frames import DISTINCT, generated_frame
from agvas_runtime.errors import InputError
from agvas_runtime.frames import MAX_PIXELS, decode_image, find_images, read_bytes

MOST = 32
"""Different frames that are held in memory; of a larger folder the first ones are taken."""
MOST_SIDE_PX = 65500
"""Of a JPEG file."""
MOST_BYTES = 2**30
"""Of all frames together."""


@dataclass(frozen=True)
class Picture:
    """A frame.

    Attributes:
        data: RGB, row by row, or an image file where `encoded`.
        height, width: in pixels.
        encoded: which of both it is.
    """

    data: bytes
    height: int
    width: int
    encoded: bool

    @property
    def image(self) -> bytes | NDArray[np.uint8]:
        """The image file, or uint8 RGB [H, W, 3]."""
        return self.data if self.encoded else np.frombuffer(self.data, np.uint8).reshape(self.height, self.width, 3)


def read_size(text: str) -> tuple[int, int]:
    """(height, width) of a text like 592x800. Raises InputError."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 1 <= int(side[:6]) <= MOST_SIDE_PX for side in sides):
        raise InputError(f"--size: found {text!r}, expected HEIGHTxWIDTH in pixels, as in 592x800")
    height, width = map(int, sides)
    if height * width > MAX_PIXELS:
        found = f"found {text!r}, {height * width / 1e6:.0f} megapixels"
        raise InputError(f"--size: {found}, expected at most {MAX_PIXELS / 1e6:g} megapixels")
    return height, width


def load_pictures(paths: Sequence[Path], size: tuple[int, int] | None, encoded: bool) -> list[Picture]:
    """The images of files and folders, or eight generated ones of 256 x 256. Raises InputError.

    Args:
        paths: none for generated frames.
        size: (height, width) that all are scaled to; their own where None.
        encoded: as image files: their own bytes, or JPEG where they are generated or scaled. Raw pixels otherwise.
    """
    images = [image for path in paths for image in find_images(path)][:MOST]
    files = [(str(image), read_bytes(image)) for image in images] or _generated()
    if size is not None and not encoded:
        _check_together(len(files) * size[0] * size[1] * 3)
    pictures: list[Picture] = []
    for name, data in files:
        pictures.append(_picture(name, data, size, encoded))
        _check_together(sum(len(each.data) for each in pictures))
    return pictures


def _check_together(size: int) -> None:
    if size > MOST_BYTES:
        limit = f"at most {MOST_BYTES / 2**20:.0f} MiB of all together: a smaller --size, or fewer --image"
        raise InputError(f"found frames of {size / 2**20:.0f} MiB, expected {limit}")


def described(pictures: Sequence[Picture]) -> dict[str, Any]:
    """What a report says of them: the sides are those of the largest, in pixels."""
    largest = max(pictures, key=lambda each: each.height * each.width)
    return {
        "format": "encoded" if pictures[0].encoded else "RGB8",
        "bytes_mean": sum(len(each.data) for each in pictures) / len(pictures),
        "height": largest.height,
        "width": largest.width,
    }


def _generated() -> list[tuple[str, bytes]]:
    return [("generated", generated_frame(seed)) for seed in range(DISTINCT)]


def _picture(name: str, data: bytes, size: tuple[int, int] | None, encoded: bool) -> Picture:
    pixels = decode_image(data, name)
    if size is not None and size != pixels.shape[:2]:
        pixels = np.asarray(Image.fromarray(pixels).resize((size[1], size[0])))
        data = _jpeg(pixels) if encoded else b""
    height, width = pixels.shape[:2]
    return Picture(data if encoded else pixels.tobytes(), height, width, encoded)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
