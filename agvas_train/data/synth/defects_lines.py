"""Line-like defects: scratches, cracks, inclusions drawn out by rolling."""

import numpy as np

from agvas_train.data.synth.fields import ramp, smooth, white
from agvas_train.data.synth.paint import Stroke, contrast_factor, reach, region, spot, toward
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Points, Shape, arc, blob, join, lines, walk


def scratch(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """One scratch or a bundle: straight or bent, bright or dark, fading along its way."""
    along_grain = rng.random() < 0.45
    angle = scene.angle + rng.normal(0, 0.05) if along_grain else float(rng.uniform(0, np.pi))
    length = reach(rng, scene, 0.08, 0.8)
    count = int(rng.choice([1, 1, 1, 2, 3, 5]))
    x, y = spot(rng, scene)
    bow = float(rng.choice([0.0, rng.normal(0, 0.04), rng.normal(0, 0.15)]))
    width = float(np.exp(rng.uniform(np.log(0.7), np.log(3.0))))
    spread = float(rng.uniform(3, 14))
    paths: list[Points] = []
    widths: list = []
    for at in range(count):
        part = length * (1.0 if at == 0 else rng.uniform(0.4, 1.0))
        off, slip = at * spread * rng.uniform(0.5, 1.5), rng.uniform(-0.3, 0.3) * length * (at > 0)
        start = (
            x - part / 2 * np.cos(angle) - off * np.sin(angle) + slip * np.cos(angle),
            y - part / 2 * np.sin(angle) + off * np.cos(angle) + slip * np.sin(angle),
        )
        paths.append(arc(start, angle + rng.normal(0, 0.02), part, bow))
        widths.append(width * float(rng.uniform(0.6, 1.2)))
    shape = lines(scene.size, paths, widths)
    if shape is None:
        return None
    if rng.random() < 0.6:
        fade = smooth(rng, *shape.alpha.shape, float(rng.uniform(6, 25)))
        shape.alpha = shape.alpha * ramp(fade, -1.6, -0.2)
    base = region(scene, shape)
    factor = contrast_factor(rng, base, strength, dark=0.4)
    form = ("curved",) if abs(bow) > 0.08 else ()
    looks = ("thin",) if width < 1.8 else ("long",) if length > 0.4 * min(scene.size) else ()
    return Stroke(shape, base * np.float32(factor), looks + form or ("straight",))


def crack(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A wandering crack of changing width, sometimes with branches or a whole network."""
    length = reach(rng, scene, 0.4 if scene.kind == "asphalt" else 0.12, 1.2)
    angle = float(rng.uniform(0, 2 * np.pi))
    x, y = spot(rng, scene)
    start = (x - length / 2 * np.cos(angle), y - length / 2 * np.sin(angle))
    step, wander = float(rng.uniform(2.5, 7)), float(rng.uniform(0.2, 0.6))
    width = float(np.exp(rng.uniform(np.log(0.8), np.log(4.0)))) * min(1.0, length / 60 + 0.4)
    paths: list[Points] = [walk(rng, start, angle, length, step=step, wander=wander)]
    widths: list = [_taper(rng, len(paths[0]), width)]
    for _ in range(int(rng.choice([0, 0, 1, 2, 4, 7]))):
        stem = int(rng.integers(len(paths)))
        at = int(rng.integers(len(paths[stem])))
        side = angle + float(rng.choice([-1, 1])) * float(rng.uniform(0.4, 1.4))
        branch = walk(
            rng, tuple(paths[stem][at]), side, length * float(rng.uniform(0.12, 0.5)), step=step, wander=wander
        )
        paths.append(branch)
        widths.append(
            _taper(rng, len(branch), float(widths[stem][min(at, len(widths[stem]) - 1)]) * 0.8, tail_only=True)
        )
    shape = lines(scene.size, paths, widths)
    if shape is None:
        return None
    if rng.random() < 0.4:
        shape.alpha = shape.alpha * ramp(smooth(rng, *shape.alpha.shape, float(rng.uniform(3, 12))), -1.8, -0.6)
    base = region(scene, shape)
    target = np.minimum(base, base.mean(axis=(0, 1))) * np.float32(rng.uniform(0.05, 0.45))
    looks = ("branched",) if len(paths) > 2 else ("jagged",)
    return Stroke(shape, toward(base, target, max(strength, 0.35)), looks + (("thin",) if width < 2 else ()))


def _taper(rng: np.random.Generator, count: int, width: float, tail_only: bool = False) -> np.ndarray:
    """Widths along a path [count], pixels: thinner at the ends, unsteady between."""
    t = np.linspace(0, 1, count)
    ends = np.minimum(1.0, (1 - t) * 4 + 0.3) if tail_only else np.minimum(1.0, np.minimum(t, 1 - t) * 5 + 0.35)
    return np.maximum(width * ends * np.exp(rng.normal(0, 0.25, count)), 0.5)


def inclusion(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Foreign matter rolled in: dark, drawn-out spots and streaks along the grain."""
    shapes: list[Shape] = []
    x, y = spot(rng, scene)
    spread = reach(rng, scene, 0.02, 0.25)
    for _ in range(int(rng.choice([1, 1, 2, 3, 5]))):
        t, off = rng.normal(0, spread), rng.normal(0, spread * 0.25)
        centre = (
            x + t * np.cos(scene.angle) - off * np.sin(scene.angle),
            y + t * np.sin(scene.angle) + off * np.cos(scene.angle),
        )
        radius = reach(rng, scene, 0.006, 0.035)
        one = blob(
            rng,
            scene.size,
            centre,
            radius,
            aspect=float(rng.uniform(2, 7)),
            angle=scene.angle + rng.normal(0, 0.08),
            rough=0.5,
            soft=float(rng.uniform(0.2, 0.7)),
            detail=0.8,
        )
        if one is not None:
            shapes.append(one)
    shape = join(shapes)
    if shape is None:
        return None
    base = region(scene, shape)
    grain = np.float32(0.05) * white(rng, *shape.alpha.shape)[..., None]
    return Stroke(shape, base * (np.float32(contrast_factor(rng, base, strength, 0.85)) + grain), ("elongated",))
