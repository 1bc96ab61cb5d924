"""The frames of a measurement, as encoded bytes, so that decoding is part of what is timed."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from agvas_runtime.frames import find_images, read_bytes

SIDE_PX, DISTINCT = 256, 8


def bench_frames(paths: Sequence[Path]) -> list[bytes]:
    """The files' bytes (a folder stands for its images), or eight generated frames. Raises InputError."""
    images = [image for path in paths for image in find_images(path)]
    return [read_bytes(image) for image in images] if images else [generated_frame(seed) for seed in range(DISTINCT)]


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
