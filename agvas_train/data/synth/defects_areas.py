"""Defects of whole areas: colour faults, uneven brightness, rolled-in scale, other shades, foreign patches."""

import numpy as np

from agvas_train.data.synth.abstract import layer
from agvas_train.data.synth.colours import pick, times
from agvas_train.data.synth.fields import ramp, smooth, white
from agvas_train.data.synth.paint import Stroke, contrast_factor, lit, reach, region, spot, toward
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, blob


def colour_fault(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """An element, a spot or a band of another hue or brightness."""
    looks: tuple[str, ...] = ("patchy",)
    if scene.elements and rng.random() < 0.5:
        x0, y0, x1, y1 = scene.elements[int(rng.integers(len(scene.elements)))]
        shape: Shape | None = Shape(y0, x0, np.ones((y1 - y0, x1 - x0), np.float32))
        if scene.plain is not None and shape is not None:
            differs = np.abs(region(scene, shape) - scene.plain[shape.window]).max(axis=2)
            shape.alpha = ramp(differs, 0.02, 0.08)
        looks = ()
    elif rng.random() < 0.2:
        height, width = scene.size
        across = abs(np.sin(scene.angle)) < 0.7
        thick, at = max(int(reach(rng, scene, 0.02, 0.15)), 3), float(rng.uniform(0.05, 0.85))
        top, left = (int(at * height), 0) if across else (0, int(at * width))
        shape = Shape(
            top,
            left,
            np.ones((thick, width) if across else (height, thick), np.float32)[: height - top, : width - left],
        )
        looks = ("straight",)
    else:
        shape = blob(
            rng,
            scene.size,
            spot(rng, scene),
            reach(rng, scene, 0.04, 0.3),
            aspect=float(rng.uniform(1, 2)),
            angle=float(rng.uniform(0, np.pi)),
            rough=float(rng.uniform(0.3, 1)),
            soft=float(rng.uniform(0.1, 0.5)),
            detail=0.7,
        )
    if shape is None:
        return None
    base = region(scene, shape)
    gains = np.exp(rng.normal(0, 0.12 + 0.4 * strength, 3)).astype(np.float32)
    if scene.grey or rng.random() < 0.3:
        gains = np.full(3, contrast_factor(rng, base, strength, 0.5), np.float32)
    elif float(base.max()) - float(base.min()) > 0.2 and rng.random() < 0.3:
        return Stroke(shape, base[..., rng.permutation(3)].copy(), looks)
    return Stroke(shape, base * gains, looks)


def uneven(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A large, soft difference in brightness, with an outline that can still be told."""
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        reach(rng, scene, 0.12, 0.3),
        aspect=float(rng.uniform(1, 1.8)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.3,
        soft=float(rng.uniform(0.05, 0.25)),
        detail=1.0,
    )
    if shape is None:
        return None
    base = region(scene, shape)
    return Stroke(shape, base * np.float32(contrast_factor(rng, base, 0.6 * strength, 0.7)), ("diffuse",))


def scale(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Dark, rough patches with a ragged outline and a grain of their own."""
    radius = reach(rng, scene, 0.04, 0.3)
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        radius,
        aspect=float(rng.uniform(1, 2.5)),
        angle=scene.angle + rng.normal(0, 0.3),
        rough=float(rng.uniform(0.6, 1.2)),
        soft=0.3,
        detail=float(rng.uniform(0.3, 0.7)),
    )
    if shape is None or shape.depth is None:
        return None
    size = shape.alpha.shape
    fringe = shape.depth + np.float32(rng.uniform(0.02, 0.2)) * smooth(rng, *size, float(rng.uniform(2, 5)))
    shape.alpha = ramp(fringe, -0.15, 0.2)
    base = region(scene, shape)
    grain = np.float32(rng.uniform(0.02, 0.15)) * smooth(rng, *size, float(rng.uniform(1, 4))) + np.float32(
        0.04
    ) * white(rng, *size)
    factor = np.float32(contrast_factor(rng, base, strength, 0.9))
    return Stroke(
        shape, (base + (base.mean(axis=(0, 1)) - base) * np.float32(0.3)) * (factor + grain)[..., None], ("ragged",)
    )


def foreign_patch(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A patch with a structure that is not the surface's, in a colour like the surface's or in another one."""
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        reach(rng, scene, 0.015, 0.25),
        aspect=float(rng.uniform(1, 4)),
        angle=float(rng.uniform(0, np.pi)),
        rough=float(rng.uniform(0.2, 1.3)),
        soft=float(rng.uniform(0.05, 0.5)),
        detail=float(rng.uniform(0.25, 1.0)),
    )
    if shape is None:
        return None
    base = region(scene, shape)
    mean = base.mean(axis=(0, 1)) * np.float32(contrast_factor(rng, base, strength, 0.6))
    colour = mean if rng.random() < 0.5 else pick(rng, "grey", "earth", "vivid", "pale", "dark", "rust", "metal")
    rough = np.float32(np.exp(rng.uniform(np.log(0.03), np.log(0.35))))
    structure = 1 + rough * np.clip(layer(rng, *shape.alpha.shape), -2.5, 2.5)
    return Stroke(shape, toward(base, lit(scene, shape, times(colour, structure)), max(strength, 0.5)), ("patchy",))


def off_shade(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A broad patch with a clear, calm outline, darker, lighter or tinted: soaked, ground or coated otherwise."""
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        reach(rng, scene, 0.06, 0.33),
        aspect=float(rng.uniform(1, 2.5)),
        angle=float(rng.uniform(0, np.pi)),
        rough=float(rng.uniform(0.05, 0.5)),
        soft=float(rng.uniform(0.02, 0.2)),
        detail=1.0,
    )
    if shape is None:
        return None
    base = region(scene, shape)
    change = 0.1 + 0.6 * strength
    gains = np.full(3, np.exp(change if rng.random() < 0.4 else -change), np.float32)
    if not scene.grey and rng.random() < 0.4:
        gains *= np.exp(rng.normal(0, 0.2, 3)).astype(np.float32)
    if rng.random() < 0.33:  # the surface's own structure is partly filled or polished away
        base = toward(base, base.mean(axis=(0, 1)), float(rng.uniform(0, 0.8)))
    if rng.random() < 0.4:
        clouds = smooth(rng, *shape.alpha.shape, float(rng.uniform(2, 12)))
        base = base * (1 + np.float32(rng.uniform(0, 0.12)) * clouds)[..., None]
    return Stroke(shape, base * gains, ("plain",))
