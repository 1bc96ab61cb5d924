"""The frames of a measurement, as encoded bytes, so that decoding is part of what is timed."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from agvas_runtime.frames import decode_image, find_images, read_bytes

SIDE_PX, DISTINCT = 256, 8
NORMAL, DEFECTIVE = "normal", "defective"
GOOD = "good"
"""Folder of the normal images in MVTec's layout; the folders beside it hold defective ones."""


@dataclass(frozen=True)
class Frame:
    """An encoded image, and whether it is NORMAL or DEFECTIVE; None where nobody said so."""

    data: bytes
    kind: str | None = None


def bench_frames(paths: Sequence[Path]) -> list[Frame]:
    """The files (a folder stands for its images), each decoded once, or eight generated frames. Raises InputError.

    Images in a folder `good` are normal; if there are any, those in other folders are defective.
    """
    images = [image for path in paths for image in find_images(path)]
    if not images:
        return [Frame(generated_frame(seed), DEFECTIVE if seed % 2 else NORMAL) for seed in range(DISTINCT)]
    good = [image.resolve().parent.name == GOOD for image in images]
    kinds = [(NORMAL if each else DEFECTIVE) if any(good) else None for each in good]
    frames = [Frame(read_bytes(image), kind) for image, kind in zip(images, kinds, strict=True)]
    for image, frame in zip(images, frames, strict=True):
        decode_image(frame.data, str(image))  # in the race nobody would know which one is broken
    return frames


def generated_frame(seed: int) -> bytes:
    """A JPEG of 256 x 256: cloudy texture with grain, on every second one a dark scratch. Same seed, same bytes."""
    random = np.random.default_rng(seed)
    clouds = np.zeros((SIDE_PX, SIDE_PX, 3), np.float32)
    for cells, weight in ((4, 60.0), (16, 30.0), (64, 15.0)):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        clouds += np.asarray(coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), np.float32) * (weight / 128)
    clouds += random.normal(0, 6, clouds.shape)
    picture = Image.fromarray(np.clip(clouds, 0, 255).astype(np.uint8))
    if seed % 2:
        ends = random.integers(40, SIDE_PX - 40, 4).tolist()
        ImageDraw.Draw(picture).line(ends, fill=(20, 20, 20), width=3)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
