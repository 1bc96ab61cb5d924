"""More marks: blisters and scuffs."""

import numpy as np

from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.paint import Stroke, contrast_factor, reach, region, spot
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, arc, blob, join, lines


def _blister(rng: np.random.Generator, base: Field, shape: Shape, turn: float, strength: float) -> None:
    """Raise one blister in the picture `base` of its window, in place: a thin lit and shadowed rim, a glint."""
    assert shape.depth is not None
    inside, rim = shape.alpha, np.float32(rng.uniform(0.12, 0.4))
    gy, gx = np.gradient(shape.depth)
    steep = np.maximum(np.hypot(gx, gy), 1e-4)
    lean = (np.cos(turn) * gx + np.sin(turn) * gy) / steep
    ring = np.clip(1 - np.abs(shape.depth - rim * 0.5) / rim, 0, 1) * inside
    gain = 1 + np.float32(strength) * (np.float32(0.9) * ring * lean + np.float32(rng.uniform(0.08, 0.15)) * inside)
    base *= gain[..., None]
    base += np.float32(0.02) * inside[..., None]  # dark grain inside a blister changes as well
    base += np.float32(0.25 * strength) * (ring * np.maximum(lean, 0) ** 2)[..., None]


def bubble(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A blister under paint or a film, or a group of them: thin bright and dark rims, the inside nearly as before."""
    count = 1 if rng.random() < 0.5 else int(rng.integers(2, 13))
    turn, size, (x, y) = float(rng.uniform(0, 2 * np.pi)), reach(rng, scene, 0.012, 0.15), spot(rng, scene)
    if count > 1:
        size = max(size * 0.5, 3.0)
    shapes = []
    for _ in range(count):
        far = rng.normal(0, 1.2 * size * np.sqrt(count), 2) if count > 1 else (0.0, 0.0)
        radius = max(size * float(np.exp(rng.normal(0, 0.35))), 2.5)
        form = {"aspect": float(rng.uniform(1, 1.4)), "angle": float(rng.uniform(0, np.pi)), "detail": 1.0}
        shapes.append(blob(rng, scene.size, (x + far[0], y + far[1]), radius, rough=0.12, soft=0.1, **form))
    found = [shape for shape in shapes if shape is not None]
    whole = join(found)
    if whole is None:
        return None
    target = region(scene, whole).copy()
    for shape in found:
        height, width = shape.alpha.shape
        part = target[shape.top - whole.top :, shape.left - whole.left :][:height, :width]
        _blister(rng, part, shape, turn, max(strength, 0.3))
    return Stroke(whole, target, ("blistered",))


def scuff(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Many fine scratches along nearly one direction, rubbed over a place."""
    long, turn, (x, y) = reach(rng, scene, 0.06, 0.4), float(rng.uniform(0, np.pi)), spot(rng, scene)
    wide, paths, widths = long * float(rng.uniform(0.08, 0.5)), [], []
    for _ in range(int(rng.integers(8, 45))):
        along, across = rng.normal(0, 0.2 * long), rng.normal(0, 0.5 * wide)
        own, length = turn + float(rng.normal(0, 0.06)), long * float(rng.uniform(0.1, 0.7))
        start_x = x + np.cos(turn) * along - np.sin(turn) * across - length / 2 * np.cos(own)
        start_y = y + np.sin(turn) * along + np.cos(turn) * across - length / 2 * np.sin(own)
        paths.append(arc((start_x, start_y), own, length, float(rng.normal(0, 0.02)), 6))
        widths.append(float(rng.uniform(0.4, 1.6)))
    shape = lines(scene.size, paths, list(widths))
    if shape is None:
        return None
    base = region(scene, shape)
    return Stroke(shape, base * np.float32(contrast_factor(rng, base, max(strength, 0.3), 0.35)), ("scuffed",))
