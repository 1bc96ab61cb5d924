"""What grows: lumps, lesions of several tones, masses in scans."""

import numpy as np

from agvas_train.data.synth.colours import hsv, pick, times
from agvas_train.data.synth.fields import Field, ramp, smooth
from agvas_train.data.synth.paint import Stroke, contrast_factor, lit, reach, region, spot, toward
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, blob


def _patch(rng: np.random.Generator, scene: Scene, low: float, high: float, rough: float, soft: float) -> Shape | None:
    return blob(
        rng,
        scene.size,
        spot(rng, scene),
        reach(rng, scene, low, high),
        aspect=float(rng.uniform(1, 1.9)),
        angle=float(rng.uniform(0, np.pi)),
        rough=rough,
        soft=soft,
        detail=float(rng.uniform(0.4, 1.0)),
    )


def growth(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A lump that stands out of the surface: its own tone, shaded as a dome, sometimes with a glint."""
    shape = _patch(rng, scene, 0.02, 0.22, float(rng.uniform(0.1, 0.6)), 0.12)
    if shape is None or shape.depth is None:
        return None
    base = region(scene, shape)
    dome = np.sqrt(np.clip(shape.depth, 0, 1))
    gy, gx = np.gradient(dome)
    turn = float(rng.uniform(0, 2 * np.pi))
    radius = max(shape.alpha.shape) / 2
    lean = np.clip((np.cos(turn) * gx + np.sin(turn) * gy) * radius, -1.5, 1.5).astype(np.float32)
    tone = np.exp(rng.normal(0, 0.12 + 0.3 * strength, 3)).astype(np.float32)
    tone = np.float32(0.4) * tone.mean() + np.float32(0.6) * tone
    rough = 1 + np.float32(rng.uniform(0, 0.12)) * smooth(rng, *shape.alpha.shape, max(radius / 6, 1.5))
    shading = np.float32(0.9 * strength) * (np.float32(0.5) * lean + np.float32(0.25) * (dome - np.float32(0.6)))
    target = times(base * np.float32(0.5) + base.mean(axis=(0, 1)) * np.float32(0.5), rough * (1 + shading)) * tone
    if rng.random() < 0.5:
        target = target + ramp(lean * dome, 0.5, 0.8)[..., None] * np.float32(rng.uniform(0.1, 0.5))
    return Stroke(shape, target, ("raised", "round"))


def lesion(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """An irregular spot of two or three tones, blotched, its border partly fading, sometimes with a halo."""
    shape = _patch(rng, scene, 0.02, 0.28, float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.1, 0.5)))
    if shape is None or shape.depth is None:
        return None
    base, size = region(scene, shape), shape.alpha.shape
    first = _tone(rng, base, strength)
    second = _tone(rng, base, min(1.0, 1.4 * strength))
    cell = max(max(size) / float(rng.uniform(3, 12)), 1.5)
    blotches = ramp(smooth(rng, *size, cell) + np.float32(rng.normal(0, 0.8)), -0.3, 0.5)
    if rng.random() < 0.5:
        blotches = np.maximum(blotches, ramp(shape.depth, 0.3, 0.7))
    target = first + blotches[..., None] * (second - first)
    if rng.random() < 0.3:
        halo = ramp(-np.abs(shape.depth - np.float32(0.1)), -0.15, 0.0)[..., None]
        target = target * (1 + np.float32(rng.uniform(-0.3, 0.4)) * halo)
    return Stroke(shape, target, ("blotched",))


def _tone(rng: np.random.Generator, base: Field, strength: float) -> Field:
    """The surface, pigmented, inflamed or bleached."""
    form = rng.random()
    if form < 0.45:
        pigment = hsv(float(rng.uniform(0.0, 0.1)), float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.08, 0.45)))
        return toward(base, base.mean(axis=(0, 1)) * pigment * np.float32(2.0), max(strength, 0.3))
    if form < 0.75:
        return base * np.float32([1.0 + 0.15 * strength, 1.0 - 0.5 * strength, 1.0 - 0.45 * strength])
    return base * np.float32(contrast_factor(rng, base, strength, 0.5))


def mass(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A brighter or darker region with a grain of its own, round or lobed, with a soft border."""
    shape = _patch(rng, scene, 0.025, 0.2, float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.1, 0.6)))
    if shape is None or shape.depth is None:
        return None
    base, size = region(scene, shape), shape.alpha.shape
    grain = np.float32(rng.uniform(0.0, 0.15)) * smooth(rng, *size, float(rng.uniform(1.5, 6)))
    target = times(base, grain + np.float32(contrast_factor(rng, base, strength, 0.4)))
    if rng.random() < 0.25:
        ring = ramp(-np.abs(shape.depth - np.float32(0.15)), -0.2, 0.0)[..., None]
        target = target + np.float32(0.25 * strength) * ring
    if rng.random() < 0.2:
        target = toward(target, lit(scene, shape, pick(rng, "pale", "dark")), 0.5)
    return Stroke(shape, target, ("soft",))
