"""The clean surface that defects are painted on, and its lighting."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agvas_train.data.synth.colours import LUMA, Colour, times
from agvas_train.data.synth.fields import Field, resize, smooth

Mask = NDArray[np.bool_]


@dataclass
class Scene:
    """A clean surface and what a defect has to know of it."""

    kind: str
    name: str
    expect: str
    rgb: Field
    """float32 [H,W,3], about [0,1]."""
    defects: dict[str, float]
    """Kinds of defects that can happen here -> weight."""
    under: Colour
    """What shows where material is missing, RGB [3]."""
    angle: float = 0.0
    """Direction of the grain, radians, 0 along x."""
    body: Mask | None = None
    """Where the part is, bool [H,W]; None: everywhere."""
    light: Field | None = None
    """Brightness the lighting gave each pixel, float32 [H,W]; None: 1."""
    parts: dict[str, Mask] = field(default_factory=dict)
    """Masks for general segmentation."""
    elements: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Boxes x0, y0, x1, y1 of pattern elements that could be missing or displaced."""
    plain: Field | None = None
    """The surface without its elements, float32 [H,W,3], where it has any."""
    metal: Mask | None = None
    """Circuit boards: where copper is, bool [H,W], with the holes that are drilled in pads."""
    tracks: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    """Circuit boards: straight track pieces x0, y0, x1, y1, width in pixels."""
    grey: bool = False
    """Whether the image is to stay greyscale."""
    harsh: bool = False
    """Binarised scans: no lighting, no soft camera."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def make_grey(self) -> None:
        """Turn everything to greyscale; later paint is turned too."""
        self.grey = True
        self.rgb = np.repeat((self.rgb @ LUMA)[..., None], 3, axis=2)
        self.under = np.full(3, self.under @ LUMA, np.float32)
        if self.plain is not None:
            self.plain = np.repeat((self.plain @ LUMA)[..., None], 3, axis=2)

    def relight(self, gain: Field) -> None:
        """Multiply the picture by a brightness field [H,W]."""
        self.rgb = times(self.rgb, gain)
        if self.plain is not None:
            self.plain = times(self.plain, gain)
        self.light = gain if self.light is None else self.light * gain


def _gain_small(rng: np.random.Generator, side: int = 24) -> Field:
    """Slow changes of brightness on a small grid: gradient, blotches, vignette, the edge of a shadow."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / (side - 1) - np.float32(0.5)
    gain = np.ones((side, side), np.float32)
    if rng.random() < 0.6:
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.6)
        gain += np.float32(strength) * (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y)
    if rng.random() < 0.4:
        gain += np.float32(rng.uniform(0.02, 0.1)) * smooth(rng, side, side, side / rng.uniform(1.5, 3))
    if rng.random() < 0.3:
        gain *= 1 - np.float32(rng.uniform(0.2, 0.9)) * (x * x + y * y)
    if rng.random() < 0.15:
        angle, offset, width = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4), rng.uniform(0.08, 0.3)
        across = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y - np.float32(offset)
        gain *= 1 - np.float32(rng.uniform(0.1, 0.45)) * np.clip(across / width + 0.5, 0, 1).astype(np.float32)
    return np.maximum(gain, np.float32(0.15))


def light(rng: np.random.Generator, scene: Scene, gloss: float) -> None:
    """Light the scene in place; `gloss` in [0,1] is how likely and strong a specular highlight is."""
    if scene.harsh:
        return
    height, width = scene.size
    scene.relight(resize(_gain_small(rng), height, width))
    if rng.random() < gloss:
        y, x = np.mgrid[0:32, 0:32].astype(np.float32) / 31
        angle = rng.uniform(0, np.pi)
        dy, dx = y - np.float32(rng.uniform(-0.1, 1.1)), x - np.float32(rng.uniform(-0.1, 1.1))
        along = np.float32(np.cos(angle)) * dx + np.float32(np.sin(angle)) * dy
        across = np.float32(np.cos(angle)) * dy - np.float32(np.sin(angle)) * dx
        long, short = rng.uniform(0.2, 0.9), rng.uniform(0.06, 0.25)
        spot = np.exp(-((along / long) ** 2) - (across / short) ** 2).astype(np.float32)
        glow = resize(spot, height, width) * np.float32(gloss * rng.uniform(0.15, 0.6))
        glow = glow if scene.body is None else glow * scene.body
        for channel in range(3):
            scene.rgb[..., channel] += glow
    expose(rng, scene)


def expose(rng: np.random.Generator, scene: Scene) -> None:
    """Bring surfaces that are far too dark to a usual exposure, mostly."""
    seen = scene.rgb if scene.body is None else scene.rgb[scene.body]
    level = float(seen.mean()) if seen.size else 1.0
    wanted = float(rng.uniform(0.15, 0.4))
    if level < wanted and rng.random() < 0.85:
        gain = min(wanted / max(level, 0.02), 4.0)
        scene.rgb *= np.float32(gain)
        scene.light = None if scene.light is None else scene.light * np.float32(gain)
        if scene.plain is not None:
            scene.plain = scene.plain * np.float32(gain)
