"""What every defect painter shares: a stroke of paint, where to put it, how big and how strong it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from agvas_train.data.synth.colours import LUMA, Colour
from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape


@dataclass
class Stroke:
    """Paint for a window of the image: region + alpha (target - region)."""

    shape: Shape
    target: Field
    """float32 [h,w,3], the colours at full weight."""
    looks: tuple[str, ...]
    """Words for the shape; contrast and colour are measured later."""
    beyond: bool = False
    """Whether paint may also fall outside the part."""
    structural: bool = False
    """Whether something is missing, added or elsewhere, which `visible.py` cannot judge: it counts as seen."""
    specks: Sequence[Shape] = ()
    """The shapes that `shape` joins, where each is to be found by itself; one is `shape`."""
    bent: bool = False
    """Whether the change is one of the surface's own texture, which may be seen without any other colour."""


Painter = Callable[[np.random.Generator, Scene, float], Stroke | None]


def region(scene: Scene, shape: Shape) -> Field:
    """The picture under a shape, float32 [h,w,3]."""
    return scene.rgb[shape.window]


def spot(rng: np.random.Generator, scene: Scene, margin: float = 0.04) -> tuple[float, float]:
    """A random place x, y on the part."""
    height, width = scene.size
    if scene.body is not None:
        for _ in range(24):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            if scene.body[y, x]:
                return float(x), float(y)
    return float(rng.uniform(margin, 1 - margin) * width), float(rng.uniform(margin, 1 - margin) * height)


def reach(rng: np.random.Generator, scene: Scene, low: float, high: float) -> float:
    """A length in pixels, log-uniform between two shares of the image's geometric side."""
    height, width = scene.size
    return float(np.exp(rng.uniform(np.log(low), np.log(high))) * np.sqrt(height * width))


def toward(base: Field, target: Field, strength: float) -> Field:
    """The way from the base to the target, walked by `strength`."""
    return base + np.float32(strength) * (target - base)


def lit(scene: Scene, shape: Shape, colour: Colour) -> Field:
    """A colour of foreign material under the scene's own light, float32 [h,w,3]."""
    if scene.light is None:
        return np.broadcast_to(colour, (*shape.alpha.shape, 3)).astype(np.float32)
    return scene.light[shape.window][..., None] * colour


def contrast_factor(rng: np.random.Generator, base: Field, strength: float, dark: float = 0.7) -> float:
    """A brightness factor for a mark: darker with probability `dark`, by at least a visible step."""
    level = float((base @ LUMA).mean())
    if level < 0.15 or (level < 0.85 and rng.random() > dark):
        return 1.0 + strength * float(rng.uniform(0.4, 1.0)) * min(1.4, 0.5 / max(level, 0.1))
    return 1.0 - strength * float(rng.uniform(0.35, 0.85))


def edge_spot(rng: np.random.Generator, scene: Scene) -> tuple[float, float] | None:
    """A random place x, y at the part's edge, or at the outline of a pattern element; None where there is neither."""
    height, width = scene.size
    if scene.body is not None:
        for _ in range(12):
            row = rng.random() < 0.5
            at = int(rng.integers(height if row else width))
            line = scene.body[at] if row else scene.body[:, at]
            steps = np.flatnonzero(line[1:] != line[:-1])
            if len(steps):
                step = float(steps[int(rng.integers(len(steps)))])
                return (step, float(at)) if row else (float(at), step)
        return None
    if scene.elements:
        x0, y0, x1, y1 = scene.elements[int(rng.integers(len(scene.elements)))]
        t, side = float(rng.random()), int(rng.integers(4))
        x, y = (
            (x0 + t * (x1 - x0), float(y0)),
            (x0 + t * (x1 - x0), float(y1)),
            (float(x0), y0 + t * (y1 - y0)),
            (float(x1), y0 + t * (y1 - y0)),
        )[side]
        if 2 < x < width - 2 and 2 < y < height - 2:  # not where the picture cuts the element
            return x, y
    return None
