"""From an RGB frame to the tensors of the two encoders. Training, export and runtime share it, so they cannot disagree.

Resizing is PIL's (antialiased, on uint8), along the rows before the columns whatever PIL's version, large frames in
bands. Decoding a frame is not here: see frames.py.

What training feeds the model and what the runtime feeds the graphs is equal to the bit. Both views are within 1e-6 of
what transformers' SiglipImageProcessorPil and SamImageProcessorPil give with PIL up to 12, in normalised units (a grey
level is 0.0078 or more): the resized bytes are theirs, float32 rounds otherwise. The resized size is
segment-anything's, but never below one pixel. `tests/train/test_preprocess_training.py` holds all three.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from agvas_runtime.frames import as_rgb, grey_of

RGB = tuple[float, float, float]
BAND_BYTES = 3 << 17
"""Of a frame's rows that are resized at once: they stay in a core's cache, for both views."""


class Size(NamedTuple):
    """What a frame is resized to."""

    height: int
    width: int
    how: Image.Resampling


class _View(BaseModel):
    """A square encoder input: its side in pixels and the colour statistics on the 0..1 scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(gt=0)
    mean: RGB
    std: RGB

    def _normalise(self, image: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write (image / 255 - mean) / std of uint8 [h,w,3] into float32 [3,h,w]."""
        scale, offset = _affine(self.mean, self.std)
        for channel in range(3):
            plane = out[channel]
            np.multiply(image[:, :, channel], scale[channel], out=plane, dtype=np.float32)
            plane += offset[channel]


class SemanticView(_View):
    """The semantic encoder's view: the whole frame squashed to a square, bicubic."""

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Frame uint8 [H,W,3] -> normalised float32 [1,3,S,S]."""
        return self.filled(*_resized(image, [self.wanted()]))

    def wanted(self) -> Size:
        """What every frame is resized to."""
        return Size(self.size, self.size, Image.Resampling.BICUBIC)

    def filled(self, small: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The resized frame, uint8 [S,S,3], -> normalised float32 [1,3,S,S]."""
        out = np.empty((1, 3, self.size, self.size), np.float32)
        self._normalise(small, out[0])
        return out


class PixelView(_View):
    """The pixel encoder's view: longest side to S, bilinear, then zeros to the right and below (as SAM does).

    With `mirror` the frame goes on there as its mirror image, over and over, for encoders that normalise by what is in
    the whole view (ours; docs/experiments.md).
    """

    mirror: bool = False

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The (h, w) that a frame of this size takes inside the square canvas."""
        scale = self.size / max(height, width)
        return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)

    def apply(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """Frame uint8 [H,W,3] -> (normalised and padded float32 [1,3,S,S], resized (h, w))."""
        return self.filled(*_resized(image, [self.wanted(image.shape[0], image.shape[1])]))

    def wanted(self, height: int, width: int) -> Size:
        """What a frame of this size is resized to."""
        return Size(*self.resized(height, width), Image.Resampling.BILINEAR)

    def filled(self, small: NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """The resized frame, uint8 [h,w,3], -> as `apply`."""
        h, w = small.shape[:2]
        covered = self.mirror or (h, w) == (self.size, self.size)
        out = (np.empty if covered else np.zeros)((1, 3, self.size, self.size), np.float32)
        self._normalise(small, out[0, :, :h, :w])
        if self.mirror:
            out[..., :h, w:] = out[..., :h, _mirrored(w, self.size)]
            out[..., h:, :] = out[..., _mirrored(h, self.size), :]
        return out, (h, w)


def both_views(
    image: NDArray[np.uint8], semantic: SemanticView, pixel: PixelView, hands: Executor | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, int]]:
    """What `apply` of either view gives: semantic, pixel, resized (h, w).

    Faster than both one after another: the frame is gone through once, its bands by as many threads as `hands` has.
    """
    sizes = [semantic.wanted(), pixel.wanted(image.shape[0], image.shape[1])]
    squashed, fitted = _resized(image, sizes, hands)
    return semantic.filled(squashed), *pixel.filled(fitted)


@lru_cache(maxsize=16)
def _affine(mean: RGB, std: RGB) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and offset so that byte * scale + offset equals (byte / 255 - mean) / std."""
    spread = np.asarray(std, np.float64)
    return (1 / (255 * spread)).astype(np.float32), (-np.asarray(mean, np.float64) / spread).astype(np.float32)


def _mirrored(length: int, size: int) -> NDArray[np.intp]:
    """Which of `length` places the places from there to `size` repeat: back to the first, then onwards, and so on."""
    place = np.arange(length, size) % (2 * length)
    return np.where(place < length, place, 2 * length - 1 - place)


def _resized(image: NDArray[np.uint8], sizes: Sequence[Size], hands: Executor | None = None) -> list[NDArray[np.uint8]]:
    """uint8 [H,W,3] -> uint8 [h,w,3] of each size; the frame itself where it fits already.

    Of a grey frame PIL sees one channel.
    """
    wanted = [size for size in sizes if size[:2] != image.shape[:2]]
    if not wanted:
        return [image] * len(sizes)
    grey = grey_of(image)
    made = [np.asarray(small) for small in _shrunk(image if grey is None else grey, wanted, hands)]
    found = dict(zip(wanted, made if grey is None else map(as_rgb, made), strict=True))
    return [found.get(size, image) for size in sizes]


def _shrunk(seen: NDArray[np.uint8], sizes: Sequence[Size], hands: Executor | None) -> list[Image.Image]:
    """uint8 [H,W] or [H,W,3] as PIL's image in each size: along the rows, rounded to bytes, then along the columns.

    That is PIL's own order, too, but for tall images from PIL 13 on. Rows do not depend on each other, so the first
    half may be done band by band.
    """
    height = seen.shape[0]
    rows = max(BAND_BYTES // seen[0].size, 1)
    if rows >= height:
        whole = Image.fromarray(seen)
        halves = [whole.resize((size.width, height), size.how) for size in sizes]
    else:
        halves = [Image.new("L" if seen.ndim == 2 else "RGB", (size.width, height)) for size in sizes]

        def squeeze(top: int) -> None:
            band = Image.fromarray(seen[top : top + rows])
            for half, size in zip(halves, sizes, strict=True):
                half.paste(band.resize((size.width, band.height), size.how), (0, top))

        list((hands.map if hands else map)(squeeze, range(0, height, rows)))
    return [half.resize((size.width, size.height), size.how) for half, size in zip(halves, sizes, strict=True)]
