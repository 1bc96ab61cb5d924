"""Defects of circuit boards: shorts, opens, spurs, mouse bites, pinholes, copper left behind."""

import numpy as np

from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.paint import Stroke, lit
from agvas_train.data.synth.scene import Mask, Scene
from agvas_train.data.synth.shapes import Shape, blob, lines, walk

_TRIES = 60


def _metal(scene: Scene, shape: Shape) -> Field:
    return scene.plain[shape.window] if scene.plain is not None else lit(scene, shape, np.ones(3, np.float32))


def _edge(rng: np.random.Generator, metal: Mask) -> tuple[int, int, float, float] | None:
    """A pixel at the edge of the copper and the direction out of it: x, y, dx, dy."""
    height = metal.shape[0]
    y, x = np.mgrid[-3:4, -3:4]
    for _ in range(_TRIES):
        row = int(rng.integers(4, height - 4))
        steps = np.flatnonzero(metal[row, 4:-4] != metal[row, 3:-5]) + 4
        if not len(steps):
            continue
        at = int(steps[int(rng.integers(len(steps)))])
        near = metal[row - 3 : row + 4, at - 3 : at + 4]
        if near.shape != (7, 7):
            continue
        dx, dy = -float((x * near).sum()), -float((y * near).sum())
        norm = float(np.hypot(dx, dy))
        if norm > 8:
            return at, row, dx / norm, dy / norm
    return None


def _thickness(metal: Mask, x: float, y: float, dx: float, dy: float, inside: bool, limit: int) -> int:
    """How far the copper (inside) or the gap reaches from a point in a direction, pixels; `limit` when farther."""
    height, width = metal.shape
    for far in range(2, limit):
        column, row = int(x + far * dx), int(y + far * dy)
        if not (0 <= column < width and 0 <= row < height):
            return limit
        if metal[row, column] != inside:
            return far
    return limit


def _interior(rng: np.random.Generator, metal: Mask, inside: bool, room: int) -> tuple[int, int] | None:
    """A place with `room` pixels of copper (or of bare board) to all four sides."""
    height, width = metal.shape
    for _ in range(_TRIES):
        y, x = int(rng.integers(room, height - room)), int(rng.integers(room, width - room))
        if (metal[[y, y - room, y + room, y, y], [x, x, x, x - room, x + room]] == inside).all():
            return x, y
    return None


def _size(rng: np.random.Generator, scene: Scene, low: float, high: float) -> float:
    """A length in pixels, log-uniform between two shares of the width of the board's tracks, and at least 1.4."""
    wide = max(scene.tracks[0][4] if scene.tracks else 6.0, 3.0)
    return max(wide * float(np.exp(rng.uniform(np.log(low), np.log(high)))), 1.4)


def short(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Copper that joins two conductors."""
    metal = scene.metal
    assert metal is not None
    for _ in range(16):
        edge = _edge(rng, metal)
        if edge is None:
            return None
        x, y, dx, dy = edge
        far = _thickness(metal, x, y, dx, dy, False, 60)
        if far < 60:
            path = walk(
                rng, (x - 2 * dx, y - 2 * dy), float(np.arctan2(dy, dx)), far + 4.0, step=2.5, wander=0.2, pull=0.4
            )
            width = _size(rng, scene, 0.2, 1.0) * np.exp(rng.normal(0, 0.2, len(path)))
            shape = lines(scene.size, [path], [width])
            return (
                None
                if shape is None
                else Stroke(
                    shape, _metal(scene, shape), ("thin",) if width.mean() < 2.5 else ("thick",), structural=True
                )
            )
    return None


def open_(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A track with a gap."""
    height, width = scene.size
    metal = scene.metal
    assert metal is not None
    for _ in range(_TRIES if scene.tracks else 0):
        x0, y0, x1, y1, wide = scene.tracks[int(rng.integers(len(scene.tracks)))]
        t = float(rng.uniform(0.05, 0.95))
        x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
        if not (5 < x < width - 5 and 5 < y < height - 5 and metal[int(y), int(x)]):
            continue
        angle = float(np.arctan2(y1 - y0, x1 - x0)) + np.pi / 2 + float(rng.normal(0, 0.25))
        half = wide / 2 + 2.0
        start = (x - half * np.cos(angle), y - half * np.sin(angle))
        path = walk(rng, start, angle, 2 * half, step=2.5, wander=0.25, pull=0.4)
        shape = lines(scene.size, [path], [_size(rng, scene, 0.2, 1.2) * np.exp(rng.normal(0, 0.2, len(path)))])
        return None if shape is None else Stroke(shape, lit(scene, shape, scene.under), ("narrow",), structural=True)
    return None


def spur(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Copper that sticks out of an edge."""
    metal = scene.metal
    assert metal is not None
    edge = _edge(rng, metal)
    if edge is None:
        return None
    x, y, dx, dy = edge
    radius = _size(rng, scene, 0.2, 0.7)
    aspect = float(rng.uniform(1, 2.5))
    if _thickness(metal, x, y, dx, dy, False, 60) < radius * aspect + 3:
        return None
    shape = blob(
        rng,
        scene.size,
        (x + dx * radius * 0.4, y + dy * radius * 0.4),
        radius,
        aspect=aspect,
        angle=float(np.arctan2(dy, dx)) + float(rng.normal(0, 0.3)),
        rough=0.3,
        soft=0.1,
    )
    return (
        None
        if shape is None
        else Stroke(shape, _metal(scene, shape), ("pointed",) if aspect > 1.6 else ("round",), structural=True)
    )


def mouse_bite(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Copper missing at an edge."""
    metal = scene.metal
    assert metal is not None
    edge = _edge(rng, metal)
    if edge is None:
        return None
    x, y, dx, dy = edge
    thick = _thickness(metal, x, y, -dx, -dy, True, 30)
    radius = float(np.clip(thick * rng.uniform(0.3, 0.65), 1.6, 14))
    shape = blob(
        rng,
        scene.size,
        (x - dx * radius * 0.3, y - dy * radius * 0.3),
        radius,
        aspect=float(rng.uniform(1, 1.6)),
        angle=float(rng.uniform(0, np.pi)),
        rough=0.4,
        soft=0.1,
    )
    return None if shape is None else Stroke(shape, lit(scene, shape, scene.under), ("round",), structural=True)


def pinhole(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A small hole in the copper."""
    metal = scene.metal
    assert metal is not None
    radius = _size(rng, scene, 0.12, 0.5)
    at = _interior(rng, metal, True, int(radius) + 2)
    shape = (
        None
        if at is None
        else blob(rng, scene.size, at, radius, aspect=float(rng.uniform(1, 1.5)), rough=0.3, soft=0.1)
    )
    return None if shape is None else Stroke(shape, lit(scene, shape, scene.under), ("round",), structural=True)


def excess(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Copper left on the bare board."""
    metal = scene.metal
    assert metal is not None
    radius = _size(rng, scene, 0.2, 1.2)
    at = _interior(rng, metal, False, int(radius) + 3)
    shape = (
        None
        if at is None
        else blob(
            rng,
            scene.size,
            at,
            radius,
            aspect=float(rng.uniform(1, 3)),
            angle=float(rng.uniform(0, np.pi)),
            rough=0.6,
            soft=0.1,
        )
    )
    return None if shape is None else Stroke(shape, _metal(scene, shape), ("irregular",), structural=True)
