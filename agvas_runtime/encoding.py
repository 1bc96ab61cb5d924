"""Masks and probability maps as bytes and back: for replies of the server and for files, so both say the same.

Decoding whole image files of unknown origin is `frames.py`'s; here are only the formats that agvas itself writes.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agvas_runtime.errors import InputError
from agvas_runtime.frames import open_image

PNG_LEVEL = 1
"""zlib's fastest level: masks shrink well at any."""
RLE_DIGITS = 7
"""Most characters of a run's length in COCO's form, five bits each; lengths are below 2**32."""


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
    return np.packbits(mask.ravel() if _whole_bytes(mask.shape[1]) else mask, axis=-1).tobytes()


def mask_from_bits(data: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of this size (H, W) in bytes written by `mask_to_bits`."""
    height, width = size
    packed = np.frombuffer(data, np.uint8)
    if _whole_bytes(width) and len(data) * 8 == height * width:
        return np.unpackbits(packed).view(np.bool_).reshape(size)
    return np.unpackbits(packed.reshape(height, -1), axis=1, count=width).view(np.bool_)


def _whole_bytes(width: int) -> bool:
    """Whether rows of so many bits need no padding; then they are packed as one, in half the time."""
    return width % 8 == 0


def mask_to_rle(mask: NDArray[np.bool_]) -> bytes:
    """A mask [H, W] as the compressed `counts` of COCO's run lengths, byte for byte as pycocotools writes them.

    Runs go down the columns and begin with one of the background, be it empty. From the fourth on a length is the
    difference to the one two before. Five bits a character, lowest first, the sixth says that more follow; 48 is added.
    """
    column_by_column = mask.ravel(order="F")
    changes = np.flatnonzero(column_by_column[1:] != column_by_column[:-1]) + 1
    first = [0, 0] if column_by_column[0] else [0]
    counts = np.diff(np.concatenate((first, changes, [mask.size])))
    counts[3:] -= counts[1:-2].copy()
    rest = counts[:, None] >> (5 * np.arange(RLE_DIGITS))
    digits = (rest & 31).astype(np.uint8)
    further = np.where(digits & 16, (rest >> 5) != -1, (rest >> 5) != 0)  # the last digit's highest bit is the sign
    written: NDArray[np.bool_] = np.ones_like(further)
    written[:, 1:] = np.logical_and.accumulate(further, axis=1)[:, :-1]
    characters: NDArray[np.uint8] = (digits + 32 * further + 48).astype(np.uint8)
    return characters[written].tobytes()


def mask_from_rle(data: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of this size (H, W) in `counts` as of `mask_to_rle`; raises InputError where they do not fill it."""
    characters = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((characters & 32) == 0)
    length = np.diff(last, prepend=-1)
    if not last.size or ((characters < 0) | (characters > 63)).any() or last[-1] + 1 < len(data):
        raise InputError("mask.data: found no run lengths, expected COCO's compressed counts")
    if length.max() > RLE_DIGITS:
        raise InputError(f"mask.data: found a run length of {length.max()} characters, expected {RLE_DIGITS} at most")
    first = last - length + 1
    place = np.arange(len(characters)) - np.repeat(first, length)
    counts = np.add.reduceat((characters & 31) << (5 * place), first)
    counts -= (characters[last] & 16) << (5 * length - 4)
    for each in (counts[1::2], counts[2::2]):
        np.cumsum(each, out=each)
    pixels = size[0] * size[1]
    if (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:
        raise InputError(f"mask.data: found run lengths of another size, expected {size[0]} x {size[1]} pixels")
    column_by_column = np.repeat(np.arange(counts.size) % 2 == 1, counts)
    return np.ascontiguousarray(column_by_column.reshape(size[::-1]).T)


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


def probability_to_float16(probability: NDArray[np.float32]) -> bytes:
    """A map [H, W] as little-endian float16, row by row; rounded to 11 bits."""
    return probability.astype("<f2").tobytes()


def probability_from_float16(data: bytes, size: tuple[int, int]) -> NDArray[np.float32]:
    """The map of this size (H, W) in bytes written by `probability_to_float16`."""
    return np.frombuffer(data, "<f2").reshape(size).astype(np.float32)
