"""From an RGB frame to the tensors of the two encoders. Training, export and runtime share it, so they cannot disagree.

Resizing is PIL's (antialiased, on uint8). Decoding a frame is not here: see frames.py.

What training feeds the model and what the runtime feeds the graphs is equal to the bit. Both views are within 1e-6 of
what transformers' SiglipImageProcessorPil and SamImageProcessorPil give, in normalised units (a grey level is 0.0078 or
more): the resized bytes are theirs, float32 rounds otherwise. The resized size is segment-anything's, but never below
one pixel. `tests/train/test_preprocess_training.py` holds all three.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

RGB = tuple[float, float, float]


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
        out = np.empty((1, 3, self.size, self.size), np.float32)
        self._normalise(_resized(image, self.size, self.size, Image.Resampling.BICUBIC), out[0])
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
        h, w = self.resized(image.shape[0], image.shape[1])
        covered = self.mirror or (h, w) == (self.size, self.size)
        out = (np.empty if covered else np.zeros)((1, 3, self.size, self.size), np.float32)
        self._normalise(_resized(image, h, w, Image.Resampling.BILINEAR), out[0, :, :h, :w])
        if self.mirror:
            out[..., :h, w:] = out[..., :h, _mirrored(w, self.size)]
            out[..., h:, :] = out[..., _mirrored(h, self.size), :]
        return out, (h, w)


@lru_cache(maxsize=16)
def _affine(mean: RGB, std: RGB) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and offset so that byte * scale + offset equals (byte / 255 - mean) / std."""
    spread = np.asarray(std, np.float64)
    return (1 / (255 * spread)).astype(np.float32), (-np.asarray(mean, np.float64) / spread).astype(np.float32)


def _mirrored(length: int, size: int) -> NDArray[np.intp]:
    """Which of `length` places the places from there to `size` repeat: back to the first, then onwards, and so on."""
    place = np.arange(length, size) % (2 * length)
    return np.where(place < length, place, 2 * length - 1 - place)


def _resized(image: NDArray[np.uint8], h: int, w: int, how: Image.Resampling) -> NDArray[np.uint8]:
    """uint8 [H,W,3] -> uint8 [h,w,3]; the frame itself where its size fits already."""
    if image.shape[:2] == (h, w):
        return image
    return np.asarray(Image.fromarray(image).resize((w, h), how))
