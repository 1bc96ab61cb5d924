"""Spot-like defects: holes, dents, stains, foreign matter."""

import numpy as np

from agvas_train.data.synth.colours import pick, shade
from agvas_train.data.synth.fields import ramp, smooth, white
from agvas_train.data.synth.paint import Stroke, contrast_factor, lit, reach, region, spot, toward
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, arc, blob, join, lines


def stain(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A soft irregular spot: soaked, oily, rusty, bleached; sometimes with a darker rim."""
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        reach(rng, scene, 0.02, 0.28),
        aspect=float(rng.uniform(1, 2.2)),
        angle=float(rng.uniform(0, np.pi)),
        rough=float(rng.uniform(0.2, 0.9)),
        soft=float(rng.uniform(0.1, 0.8)),
        detail=float(rng.uniform(0.3, 1.0)),
    )
    if shape is None or shape.depth is None:
        return None
    base = region(scene, shape)
    target = base * np.float32(contrast_factor(rng, base, strength, 0.75))
    if rng.random() < 0.45:
        colour = pick(rng, "rust", "vivid", "dark", "earth")
        target = toward(
            base, np.float32(0.35) * target + np.float32(0.65) * lit(scene, shape, colour), max(strength, 0.3)
        )
    if rng.random() < 0.3:
        ring = ramp(-np.abs(shape.depth - np.float32(0.12)), -0.14, 0.0)[..., None]
        target = target * (1 - np.float32(0.35) * ring)
    if rng.random() < 0.5:
        target = target * (1 + np.float32(0.06) * smooth(rng, *shape.alpha.shape, 5)[..., None])
    return Stroke(shape, target, ("irregular",))


def hole(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A pinhole, a blowhole or a group of them: dark inside, one side of the rim lit."""
    radius = reach(rng, scene, 0.006, 0.09)
    count = 1 if radius > 0.03 * min(scene.size) else int(rng.choice([1, 1, 1, 2, 4, 7]))
    x, y = spot(rng, scene)
    shapes: list[Shape] = []
    for at in range(count):
        away = 0.0 if at == 0 else radius * float(rng.uniform(3, 12))
        turn = float(rng.uniform(0, 2 * np.pi))
        one = blob(
            rng,
            scene.size,
            (x + away * np.cos(turn), y + away * np.sin(turn)),
            max(radius * float(rng.uniform(0.6, 1.2)), 1.0),
            aspect=float(rng.uniform(1, 1.6)),
            angle=float(rng.uniform(0, np.pi)),
            rough=float(rng.uniform(0, 0.4)),
            soft=float(rng.uniform(0.1, 0.5)),
        )
        if one is not None:
            shapes.append(one)
    shape = join(shapes)
    if shape is None:
        return None
    base = region(scene, shape)
    inside = shade(scene.under, float(rng.uniform(0.1, 0.7)))
    target = np.minimum(lit(scene, shape, inside), base * np.float32(0.8))
    if radius > 4 and rng.random() < 0.7:
        turn = rng.uniform(0, 2 * np.pi)
        gy, gx = np.gradient(shape.alpha)
        rim = (np.float32(np.cos(turn)) * gx + np.float32(np.sin(turn)) * gy) * np.float32(
            radius * rng.uniform(0.1, 0.4)
        )
        target = target + np.clip(rim, -0.3, 0.5)[..., None] * base.mean()
    looks = ("round",) if len(shapes) == 1 else ("scattered",)
    return Stroke(shape, toward(base, target, max(strength, 0.4)), looks, specks=shapes)


def dent(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A smooth hollow or bump: one side bright, the other dark."""
    radius = reach(rng, scene, 0.025, 0.16)
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        radius,
        aspect=float(rng.uniform(1, 2)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.15,
        soft=0.7,
        detail=1.0,
    )
    if shape is None or shape.depth is None:
        return None
    base = region(scene, shape)
    bump = np.clip(shape.depth, 0, 1)
    gy, gx = np.gradient(bump * bump * (3 - 2 * bump))
    turn = rng.uniform(0, 2 * np.pi)
    slope = (np.float32(np.cos(turn)) * gx + np.float32(np.sin(turn)) * gy) * np.float32(radius)
    shading = np.float32(strength * rng.uniform(0.25, 0.5)) * slope - np.float32(0.12 * strength) * bump
    shape.alpha = ramp(np.abs(shading), 0.0, 0.15 * strength)
    return Stroke(
        shape,
        base * (1 + shading[..., None]) + np.float32(0.3) * np.maximum(shading, 0)[..., None],
        ("shaded", "round"),
    )


def contamination(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Foreign matter: particles, a fibre or hair, drops."""
    form = rng.random()
    shapes: list[Shape] = []
    x, y = spot(rng, scene)
    if form < 0.35:
        path = arc(
            (x, y), float(rng.uniform(0, 2 * np.pi)), reach(rng, scene, 0.08, 0.4), float(rng.normal(0, 0.3)), 24
        )
        path = path + np.cumsum(rng.normal(0, 0.25, path.shape), axis=0)
        shape, looks = lines(scene.size, [path], [float(rng.uniform(0.8, 2.2))]), ("thin", "curved")
    else:
        drop = form > 0.8
        spread = reach(rng, scene, 0.03, 0.3)
        for _ in range(1 if drop else int(rng.choice([1, 2, 4, 8, 14]))):
            one = blob(
                rng,
                scene.size,
                (x + rng.normal(0, spread) * (not drop), y + rng.normal(0, spread) * (not drop)),
                max(reach(rng, scene, 0.015, 0.06) if drop else reach(rng, scene, 0.004, 0.025), 0.9),
                aspect=float(rng.uniform(1, 1.8)),
                angle=float(rng.uniform(0, np.pi)),
                rough=0.1 if drop else 0.6,
                soft=0.25,
                detail=0.8,
            )
            if one is not None:
                shapes.append(one)
        shape, looks = join(shapes), ("round",) if drop else ("irregular",) if len(shapes) == 1 else ("scattered",)
    if shape is None:
        return None
    base = region(scene, shape)
    paint = lit(scene, shape, pick(rng, "dark", "pale", "vivid", "earth", "grey"))
    if shape.depth is not None and looks == ("round",):
        paint = paint * (1 + np.float32(0.5) * np.clip(shape.depth, 0, 1))[..., None]
    paint = paint * (1 + np.float32(0.08) * white(rng, *shape.alpha.shape))[..., None]
    return Stroke(shape, toward(base, paint, max(strength, 0.35)), looks, specks=shapes)
