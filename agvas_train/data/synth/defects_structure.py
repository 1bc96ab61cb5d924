"""Defects of structure: missing, displaced, frayed, chipped, distorted."""

import numpy as np
from PIL import Image

from agvas_train.data.synth.fields import Field, ramp, smooth, white
from agvas_train.data.synth.paint import Stroke, edge_spot, lit, reach, region, spot, toward
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, arc, blob, lines


def _element(rng: np.random.Generator, scene: Scene) -> tuple[int, int, int, int] | None:
    return scene.elements[int(rng.integers(len(scene.elements)))] if scene.elements else None


def missing(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A pattern element that is not there, wholly or in part; a pulled thread; a torn piece."""
    box = _element(rng, scene)
    if box is not None and scene.plain is not None:
        x0, y0, x1, y1 = box
        alpha = np.ones((y1 - y0, x1 - x0), np.float32)
        if scene.kind == "part" or scene.name == "printed label" or rng.random() < 0.35:  # seen only by what is left
            turn = rng.uniform(0, 2 * np.pi)
            y, x = np.mgrid[-1 : 1 : (y1 - y0) * 1j, -1 : 1 : (x1 - x0) * 1j].astype(np.float32)
            cut = (
                np.float32(np.cos(turn)) * x
                + np.float32(np.sin(turn)) * y
                + np.float32(0.2) * smooth(rng, y1 - y0, x1 - x0, 4)
            )
            alpha = ramp(cut, -0.05, 0.1)
        shape = Shape(y0, x0, alpha)
        return Stroke(shape, scene.plain[shape.window], (), beyond=scene.kind != "part", structural=True)
    x, y = spot(rng, scene)
    if rng.random() < 0.5:
        length, width = reach(rng, scene, 0.15, 1.0), float(rng.uniform(1.2, 6))
        start = (x - length / 2 * np.cos(scene.angle), y - length / 2 * np.sin(scene.angle))
        shape_or_none, looks = (
            lines(scene.size, [arc(start, scene.angle, length, float(rng.normal(0, 0.01)))], [width]),
            ("straight",),
        )
    else:
        shape_or_none = blob(
            rng,
            scene.size,
            (x, y),
            reach(rng, scene, 0.02, 0.14),
            aspect=float(rng.uniform(1, 2.5)),
            angle=float(rng.uniform(0, np.pi)),
            rough=1.0,
            soft=0.12,
            detail=0.3,
        )
        looks = ("jagged",)
    if shape_or_none is None:
        return None
    base = region(scene, shape_or_none)
    return Stroke(shape_or_none, toward(base, lit(scene, shape_or_none, scene.under), max(strength, 0.5)), looks)


def displaced(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A pattern element out of its place, or a piece of the surface that does not continue its surroundings."""
    box = _element(rng, scene)
    if box is not None and scene.plain is not None and rng.random() < 0.8:
        x0, y0, x1, y1 = box
        far = max((0.25 + 0.25 * strength) * min(x1 - x0, y1 - y0), 3.0)
        turn = rng.uniform(0, 2 * np.pi)
        dx, dy = round(far * float(np.cos(turn))), round(far * float(np.sin(turn)))
        left, top = max(min(x0, x0 + dx), 0), max(min(y0, y0 + dy), 0)
        right, bottom = min(max(x1, x1 + dx), scene.size[1]), min(max(y1, y1 + dy), scene.size[0])
        target = scene.plain[top:bottom, left:right].copy()
        a, b = max(x0 + dx, left), max(y0 + dy, top)
        c, d = min(x1 + dx, right), min(y1 + dy, bottom)
        target[b - top : d - top, a - left : c - left] = scene.rgb[b - dy : d - dy, a - dx : c - dx]
        shape = Shape(top, left, np.ones(target.shape[:2], np.float32))
        return Stroke(shape, target, (), beyond=scene.kind != "part", structural=True)
    shape_or_none = blob(
        rng,
        scene.size,
        spot(rng, scene),
        reach(rng, scene, 0.04, 0.16),
        aspect=float(rng.uniform(1, 1.6)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.4,
        soft=0.06,
    )
    if shape_or_none is None:
        return None
    height, width = shape_or_none.alpha.shape
    side = max(height, width)
    if side >= min(scene.size):
        return None
    top, left = int(rng.integers(scene.size[0] - side)), int(rng.integers(scene.size[1] - side))
    patch = np.rot90(scene.rgb[top : top + side, left : left + side], int(rng.choice([1, 3])))[:height, :width]
    return Stroke(shape_or_none, patch.copy(), ("misaligned",), bent=True)


def _bent(rng: np.random.Generator, base: Field, far: float, cell: float) -> Field:
    """The picture [h,w,3] pulled about by up to some `far` pixels."""
    height, width = base.shape[:2]
    y = np.arange(height)[:, None] + np.rint(far * smooth(rng, height, width, cell)).astype(np.int64)
    x = np.arange(width)[None] + np.rint(far * smooth(rng, height, width, cell)).astype(np.int64)
    return base[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]


def distortion(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """The pattern pulled or twisted in one place."""
    radius = reach(rng, scene, 0.05, 0.16)
    shape = blob(
        rng,
        scene.size,
        spot(rng, scene),
        radius,
        aspect=float(rng.uniform(1, 2)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.2,
        soft=0.25,
    )
    if shape is None:
        return None
    far = radius * float(rng.uniform(0.15, 0.4)) + 1.5
    target = _bent(rng, region(scene, shape), far, radius * float(rng.uniform(0.5, 1.0)))
    return Stroke(shape, target, ("irregular",), bent=True)


def fray(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Loose fibres or a torn, worn zone, at the edge where there is one."""
    x, y = edge_spot(rng, scene) or spot(rng, scene)
    radius = reach(rng, scene, 0.03, 0.12)
    shape = blob(
        rng,
        scene.size,
        (x, y),
        radius,
        aspect=float(rng.uniform(1.2, 3.5)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.9,
        soft=0.3,
        detail=0.25,
    )
    if shape is None:
        return None
    base = region(scene, shape)
    worn = Image.fromarray((np.clip(_bent(rng, base, 2.5, 3.0), 0, 1) * 255).astype(np.uint8)).reduce(2)
    target = np.asarray(worn.resize(shape.alpha.shape[::-1], Image.Resampling.BILINEAR), np.float32) / np.float32(255)
    paths = [
        arc(
            (float(x + rng.normal(0, radius * 0.8)), float(y + rng.normal(0, radius * 0.8))),
            float(rng.uniform(0, 2 * np.pi)),
            radius * float(rng.uniform(0.4, 1.3)),
            float(rng.normal(0, 0.3)),
            8,
        )
        for _ in range(int(rng.integers(3, 16)))
    ]
    fibres = lines(scene.size, paths, [float(rng.uniform(0.7, 1.6)) for _ in paths])
    factor = float(rng.choice([rng.uniform(0.4, 0.8), rng.uniform(1.25, 1.8)]))
    target = target * np.float32(1 + (factor - 1) * strength * 0.8)
    if fibres is not None:
        whole = np.zeros(scene.size, np.float32)
        whole[fibres.window] = fibres.alpha
        cut = whole[shape.window]
        target = target * (1 + cut * np.float32(1.6 * (factor - 1)))[..., None]
        shape.alpha = np.maximum(shape.alpha, cut)
    return Stroke(shape, target, ("ragged",))


def chip(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A piece broken off an edge: the ground shows, or a rough fracture face."""
    at = edge_spot(rng, scene)
    if at is None:
        return None
    shape = blob(
        rng,
        scene.size,
        at,
        reach(rng, scene, 0.015, 0.1),
        aspect=float(rng.uniform(1, 2)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.7,
        soft=0.1,
        detail=0.6,
    )
    if shape is None:
        return None
    base = region(scene, shape)
    if rng.random() < 0.6:
        target = lit(scene, shape, scene.under)
    else:
        face = float(rng.choice([rng.uniform(0.3, 0.75), rng.uniform(1.2, 1.7)]))
        target = toward(base, base.mean(axis=(0, 1)) * face, 0.8)
        target = target * (1 + np.float32(0.12) * smooth(rng, *shape.alpha.shape, 3))[..., None]
    target = target * (1 + np.float32(0.03) * white(rng, *shape.alpha.shape))[..., None]
    return Stroke(shape, target, ("jagged",))
