"""The three pictures of Figure A.5: A with a box around the defects, B with them painted green, C a normal image."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GREEN = (0, 255, 0)
JPEG_QUALITY = 95


def boxed(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A copy of the image, uint8 RGB [H,W,3], with one green frame around all of the mask, bool [H,W].

    The frame lies outside the defect, wherever the image has room for it; without a defect there is none.
    """
    if not mask.any():
        return image
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    line = max(round(max(height, width) / 200), 1)
    gap = 2 * line
    left, top = max(int(columns[0]) - gap, 0), max(int(rows[0]) - gap, 0)
    right, bottom = min(int(columns[-1]) + gap, width - 1), min(int(rows[-1]) + gap, height - 1)
    drawn = Image.fromarray(image)
    ImageDraw.Draw(drawn).rectangle((left, top, right, bottom), outline=GREEN, width=line)
    return np.array(drawn)


def painted(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A copy of the image, uint8 RGB [H,W,3], in which every pixel of the mask, bool [H,W], is plain green."""
    return np.where(mask[:, :, None], np.array(GREEN, np.uint8), image)


def shrunk(image: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """The image, uint8 RGB [H,W,3], with no side longer than this, in pixels."""
    size = _size(image.shape[:2], max_side)
    return image if size is None else np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def shrunk_mask(mask: NDArray[np.bool_], max_side: int) -> NDArray[np.bool_]:
    """The mask, bool [H,W], to the size of its shrunk image: a pixel is a defect where any pixel in it was one."""
    size = _size(mask.shape, max_side)
    if size is None:
        return mask
    shares = Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(shares) > 0


def _size(shape: tuple[int, ...], max_side: int) -> tuple[int, int] | None:
    """(width, height) of the shrunk picture of a shape (H, W); None where it need not shrink."""
    height, width = shape
    if (longest := max(height, width)) <= max_side:
        return None
    return max(round(width * max_side / longest), 1), max(round(height * max_side / longest), 1)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """The picture as a JPEG file; its colours are not subsampled, so that a thin line stays green."""
    held = BytesIO()
    Image.fromarray(image).save(held, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return held.getvalue()


def data_uri(encoded: bytes) -> str:
    """The JPEG file as the `url` of an image in a message."""
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")
