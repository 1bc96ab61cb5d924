"""The camera: exposure, blur, sensor noise, quantisation, now and then JPEG and enlargement."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from agvas_train.data.synth.fields import Field, white
from agvas_train.data.synth.notes import SynthConfig


@dataclass(frozen=True)
class Camera:
    """One camera's fixed settings; the same settings photograph a clean and a defective surface alike."""

    gamma: float
    contrast: float
    offset: float
    blur_px: float
    motion: tuple[float, ...] | None
    noise: float
    shot: float
    grey_noise: bool
    jpeg_quality: int | None
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, config: SynthConfig, harsh: bool, grey: bool) -> "Camera":
        """Random settings; `harsh` surfaces (binarised scans) stay sharp and clean, `grey` ones get grey noise."""
        blurred = not harsh and rng.random() < config.blur_share
        motion = None
        if blurred and rng.random() < 0.2:
            kernel = np.zeros((5, 5))
            reach = int(rng.integers(1, 3))
            step = ((0, 1), (1, 0), (1, 1), (1, -1))[int(rng.integers(4))]
            for at in range(-reach, reach + 1):
                kernel[2 + at * step[0], 2 + at * step[1]] = 1.0
            motion = tuple(kernel.ravel() / kernel.sum())
        return cls(
            gamma=1.0 if harsh else float(np.exp(rng.normal(0, 0.18))),
            contrast=1.0 if harsh else float(rng.uniform(0.75, 1.1)),
            offset=0.0 if harsh else float(rng.uniform(-0.03, 0.06)),
            blur_px=float(rng.uniform(0.3, 1.1)) if blurred and motion is None else 0.0,
            motion=motion,
            noise=0.0 if harsh else float(rng.choice([0.0, rng.uniform(0, 0.012), rng.uniform(0.01, 0.03)])),
            shot=0.0 if harsh else float(rng.uniform(0, 0.015)),
            grey_noise=grey or rng.random() < 0.3,
            jpeg_quality=int(rng.integers(40, 96)) if rng.random() < config.jpeg_share else None,
            seed=int(rng.integers(2**31)),
        )

    @property
    def noise_level(self) -> float:
        """About the deviation that the noise of bright pixels would have on the surface itself, in [0, 1]; gamma, blur
        and enlargement are left out."""
        return (self.noise + self.shot) / self.contrast

    def photograph(self, rgb: Field, size: tuple[int, int]) -> NDArray[np.uint8]:
        """uint8 RGB [H,W,3] of a surface [h,w,3] in about [0,1], enlarged to `size` (H, W) where it is smaller."""
        picture = np.clip(rgb * np.float32(self.contrast) + np.float32(self.offset), 0.0, 1.0)
        if abs(self.gamma - 1.0) > 0.03:
            picture = np.sqrt(picture) if self.gamma < 0.7 else picture ** np.float32(self.gamma)
        frame = Image.fromarray((picture * np.float32(255) + np.float32(0.5)).astype(np.uint8))
        if self.blur_px:
            frame = frame.filter(ImageFilter.BoxBlur(self.blur_px))
        if self.motion is not None:
            frame = frame.filter(ImageFilter.Kernel((5, 5), self.motion))
        height, width = size
        if (frame.height, frame.width) != size:
            frame = frame.resize((width, height), Image.Resampling.BICUBIC)
        if self.noise or self.shot:
            frame = self._grain(frame)
        if self.jpeg_quality is not None:
            held = BytesIO()
            frame.save(held, "JPEG", quality=self.jpeg_quality)
            frame = Image.open(held)
        return np.array(frame)

    def _grain(self, frame: Image.Image) -> Image.Image:
        rng = np.random.Generator(np.random.SFC64(self.seed))
        pixels = np.asarray(frame).astype(np.float32)
        height, width = pixels.shape[:2]
        level = np.float32(255 * self.noise) + np.float32(255 * self.shot / 16) * np.sqrt(pixels[..., 1])
        grain = white(rng, height, width) * level
        for channel in range(3):
            pixels[..., channel] += grain
            if not self.grey_noise and channel < 2:
                grain = white(rng, height, width) * level
        return Image.fromarray(np.clip(pixels + np.float32(0.5), 0, 255, out=pixels).astype(np.uint8))
