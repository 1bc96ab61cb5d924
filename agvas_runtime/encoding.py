"""Masks and probability maps as bytes and back: for replies of the server and for files, so both say the same.

Decoding whole image files of unknown origin is `frames.py`'s; here are only the formats that agvas itself writes.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime.frames import open_image

PNG_LEVEL = 1
"""zlib's fastest level: masks shrink well at any."""


def png(array: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Any array [H, W] (uint8, uint16) or [H, W, 3] (uint8) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def mask_to_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask [H, W] as an 8-bit greyscale PNG of 0 and 255."""
    return png(mask.view(np.uint8) * np.uint8(255))


def mask_from_png(data: bytes) -> NDArray[np.bool_]:
    """The mask [H, W] in a PNG written by `mask_to_png`."""
    return np.asarray(open_image(data, "mask")) > 127


def mask_to_bits(mask: NDArray[np.bool_]) -> bytes:
    """A mask [H, W] with one bit a pixel; rows padded to whole bytes, the leftmost pixel in the highest bit."""
    return np.packbits(mask, axis=1).tobytes()


def mask_from_bits(data: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of this size (H, W) in bytes written by `mask_to_bits`."""
    height, width = size
    rows = np.frombuffer(data, np.uint8).reshape(height, -1)
    return np.unpackbits(rows, axis=1, count=width).view(np.bool_)


def probability_to_png16(probability: NDArray[np.float32]) -> bytes:
    """A map [H, W] in [0, 1] as a 16-bit greyscale PNG, rounded to steps of 1/65535."""
    return png(np.rint(probability * np.float32(65535)).astype(np.uint16))


def probability_from_png16(data: bytes) -> NDArray[np.float32]:
    """The map [H, W] in a PNG written by `probability_to_png16`."""
    return np.asarray(open_image(data, "probability")).astype(np.float32) / np.float32(65535)


def probability_to_float32(probability: NDArray[np.float32]) -> bytes:
    """A map [H, W] as little-endian float32, row by row."""
    return probability.astype("<f4", copy=False).tobytes()


def probability_from_float32(data: bytes, size: tuple[int, int]) -> NDArray[np.float32]:
    """The map of this size (H, W) in bytes written by `probability_to_float32`."""
    return np.frombuffer(data, "<f4").reshape(size).astype(np.float32, copy=False)
