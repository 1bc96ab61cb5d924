"""The camera: where it looks from, exposure, blur, sensor noise, quantisation, now and then JPEG and enlargement."""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from agvas_train.data.synth.fields import Field, white
from agvas_train.data.synth.notes import SynthConfig
from agvas_train.data.synth.scene import Mask

View = tuple[float, ...]
"""Of a place in the picture, in shares of its sides, to one on the surface: the eight numbers of a projection."""


def _oblique(rng: np.random.Generator) -> View:
    """A view from the side, turned a little, that sees nothing but the surface."""
    turn, square = float(rng.normal(0, 0.2)), np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    seen = square * rng.uniform(0.75, 1.0, 2) + rng.uniform(-0.12, 0.12, square.shape)
    seen = seen @ np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    seen = 0.5 + seen * min(1.0, 0.5 / float(np.abs(seen).max())) * rng.uniform(0.85, 1.0)
    rows = []
    for (x, y), (u, v) in zip(square + 0.5, seen, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
    return tuple(np.linalg.solve(np.array(rows), seen.ravel()).tolist())


@dataclass(frozen=True)
class Camera:
    """One camera's fixed settings; the same settings photograph a clean and a defective surface alike."""

    view: View | None
    tint: tuple[float, float, float] | None
    gamma: float
    contrast: float
    offset: float
    blur_px: float
    motion: tuple[float, ...] | None
    sharpen: int
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
        hazy = rng.random() < 0.1
        red, blue = np.exp(rng.normal(0, 0.08, 2)).tolist()
        noises = (0.0, rng.uniform(0, 0.012), rng.uniform(0, 0.012), rng.uniform(0.01, 0.03), rng.uniform(0.02, 0.05))
        return cls(
            view=_oblique(rng) if rng.random() < config.oblique_share and not harsh else None,
            tint=(red, 1.0, blue) if rng.random() < 0.3 and not (harsh or grey) else None,
            gamma=1.0 if harsh else float(np.exp(rng.normal(0, 0.22))),
            contrast=1.0 if harsh else float(rng.uniform(0.45, 0.75) if hazy else rng.uniform(0.75, 1.25)),
            offset=0.0 if harsh else float(rng.uniform(0.05, 0.3) if hazy else rng.uniform(-0.06, 0.06)),
            blur_px=float(rng.uniform(0.3, 1.1)) if blurred and motion is None else 0.0,
            motion=motion,
            sharpen=int(rng.integers(40, 200)) if not harsh and rng.random() < config.sharpen_share else 0,
            noise=0.0 if harsh else float(rng.choice(noises)),
            shot=0.0 if harsh else float(rng.uniform(0, 0.015)),
            grey_noise=grey or rng.random() < 0.3,
            jpeg_quality=int(rng.integers(40, 96)) if rng.random() < config.jpeg_share else None,
            seed=int(rng.integers(2**31)),
        )

    @property
    def noise_level(self) -> float:
        """About the deviation that the noise of bright pixels would have on the surface itself, in [0, 1]; gamma, blur,
        sharpening and enlargement are left out."""
        return (self.noise + self.shot) / self.contrast

    def outline(self, mask: Mask, size: tuple[int, int]) -> Mask:
        """Where in the picture of `size` (H, W) the part `mask` [h,w] of the surface is; bool [H,W]."""
        if self.view is None and mask.shape == size:
            return mask
        frame = Image.fromarray(mask.astype(np.uint8) * 255)
        return np.asarray(self._seen(frame, size, Image.Resampling.BILINEAR)) > 127

    def photograph(self, rgb: Field, size: tuple[int, int]) -> NDArray[np.uint8]:
        """uint8 RGB [H,W,3] of a surface [h,w,3] in about [0,1], enlarged to `size` (H, W) where it is smaller."""
        gain = np.float32(self.contrast) * np.float32(self.tint or 1.0)
        picture = np.clip(rgb * gain + np.float32(self.offset), 0.0, 1.0)
        if abs(self.gamma - 1.0) > 0.03:
            picture = np.sqrt(picture) if self.gamma < 0.7 else picture ** np.float32(self.gamma)
        frame = Image.fromarray((picture * np.float32(255) + np.float32(0.5)).astype(np.uint8))
        if self.blur_px:
            frame = frame.filter(ImageFilter.BoxBlur(self.blur_px))
        if self.motion is not None:
            frame = frame.filter(ImageFilter.Kernel((5, 5), self.motion))
        frame = self._seen(frame, size, Image.Resampling.BICUBIC)
        if self.sharpen:
            frame = frame.filter(ImageFilter.UnsharpMask(1.2, self.sharpen, 0))
        if self.noise or self.shot:
            frame = self._grain(frame)
        if self.jpeg_quality is not None:
            held = BytesIO()
            frame.save(held, "JPEG", quality=self.jpeg_quality)
            frame = Image.open(held)
        return np.array(frame)

    def _seen(self, frame: Image.Image, size: tuple[int, int], method: Image.Resampling) -> Image.Image:
        """The surface as the camera sees it, `size` (H, W)."""
        height, width = size
        if self.view is None:
            return frame if (frame.height, frame.width) == size else frame.resize((width, height), method)
        a, b, c, d, e, f, g, h = self.view
        across, down = frame.width, frame.height
        shares = np.array([(a, b, c), (d, e, f)]) * [[across], [down]] / (width, height, 1)
        data = (*shares.ravel().tolist(), g / width, h / height)
        return frame.transform((width, height), Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)

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
