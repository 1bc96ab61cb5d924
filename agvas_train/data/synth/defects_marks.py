"""Marks with a relief or a structure of their own: creases, gouges, flaked places, rust, smears, burns, crazing."""

import numpy as np

from agvas_train.data.synth.colours import hsv, pick, times
from agvas_train.data.synth.fields import Field, cells, fractal, ramp, smooth, turned
from agvas_train.data.synth.paint import Stroke, contrast_factor, lit, reach, region, spot, toward
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, arc, blob, lines, walk


def _area(rng: np.random.Generator, scene: Scene, low: float, high: float, **form: float) -> Shape | None:
    form = {"rough": float(rng.uniform(0.4, 1.1)), "soft": 0.15, "detail": float(rng.uniform(0.25, 0.8))} | form
    turn, aspect = float(rng.uniform(0, np.pi)), float(rng.uniform(1, 2.2))
    size = reach(rng, scene, low, high)
    return blob(rng, scene.size, spot(rng, scene), size, aspect=aspect, angle=turn, **form)


def _lean(rng: np.random.Generator, height: Field) -> Field:
    """How far a relief leans towards a lamp at one side, for each pixel of it."""
    gy, gx = np.gradient(height)
    turn = float(rng.uniform(0, 2 * np.pi))
    return (np.cos(turn) * gx + np.sin(turn) * gy).astype(np.float32)


def _wide_line(rng: np.random.Generator, scene: Scene, width: float) -> Shape | None:
    """A bent or winding line, `width` pixels wide."""
    length, turn = reach(rng, scene, 0.1, 0.9), float(rng.uniform(0, 2 * np.pi))
    x, y = spot(rng, scene)
    start = (x - length / 2 * np.cos(turn), y - length / 2 * np.sin(turn))
    winding = rng.random() < 0.4
    path = walk(rng, start, turn, length, wander=0.15) if winding else arc(start, turn, length, rng.normal(0, 0.12))
    t = np.linspace(0, 1, len(path))
    ends = np.minimum(1.0, 4 * np.minimum(t, 1 - t) + 0.3)
    return lines(scene.size, [path], [width * ends * np.exp(rng.normal(0, rng.uniform(0.05, 0.35), len(path)))])


def crease(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A fold or a pressed line: one side lit, the other in shadow."""
    width = float(np.exp(rng.uniform(np.log(3), np.log(12))))
    shape = _wide_line(rng, scene, width)
    if shape is None:
        return None
    ridge = smooth_edges(shape.alpha, width / 3)
    lean = _lean(rng, ridge)
    lean = lean / max(float(np.abs(lean).max()), 1e-3)
    shape.alpha = np.maximum(ramp(np.abs(lean), 0.05, 0.3), np.float32(0.6) * ramp(ridge, 0.5, 0.8))
    shading = np.float32(strength * rng.uniform(0.4, 0.9)) * lean
    return Stroke(
        shape,
        times(region(scene, shape), 1 + shading - np.float32(0.1 * strength) * ridge)
        + np.maximum(shading, 0)[..., None] * 0.1,
        ("folded",),
    )


def smooth_edges(field: Field, reach_px: float) -> Field:
    """The field [h,w] blurred twice over about `reach_px` pixels; beyond its sides it goes on as it ends there."""
    far = max(round(reach_px), 1)
    for axis in (0, 1, 0, 1):
        around = [(far + 1, far) if at == axis else (0, 0) for at in (0, 1)]
        total = np.cumsum(np.pad(field, around, mode="edge"), axis=axis, dtype=np.float64)
        ahead, behind = (slice(2 * far + 1, None), slice(None, -2 * far - 1))
        window = (ahead, slice(None)) if axis == 0 else (slice(None), ahead)
        before = (behind, slice(None)) if axis == 0 else (slice(None), behind)
        field = ((total[window] - total[before]) / (2 * far + 1)).astype(np.float32)
    return field


def gouge(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A deep scratch: a dark core with a thrown-up, bright rim, its width unsteady."""
    width = float(np.exp(rng.uniform(np.log(2), np.log(7))))
    shape = _wide_line(rng, scene, width)
    if shape is None:
        return None
    base = region(scene, shape)
    core = ramp(smooth_edges(shape.alpha, width / 4), 0.45, 0.8)
    rim = np.clip(_lean(rng, core) * np.float32(width), -1, 1)
    shade = np.float32(0.75 * strength) * core
    target = times(base, np.clip(1 - shade + np.float32(0.8 * strength) * rim, 0.05, 2.2))
    shape.alpha = np.maximum(ramp(core, 0.1, 0.4), ramp(np.abs(rim), 0.15, 0.4))
    return Stroke(shape, target, ("deep",))


def spalling(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Material flaked off: a rough floor lit from one side, with a lit and a shadowed rim."""
    shape = _area(rng, scene, 0.015, 0.16, soft=0.06)
    if shape is None or shape.depth is None:
        return None
    base, size = region(scene, shape), shape.alpha.shape
    floor = fractal(rng, *size, max(max(size) / float(rng.uniform(3, 10)), 2), 3, 0.6)
    depth = np.clip(shape.depth * np.float32(rng.uniform(1.5, 5)), 0, 1)
    relief = np.float32(rng.uniform(0.15, 0.5)) * floor * shape.alpha - depth
    lean = np.tanh(_lean(rng, relief) * np.float32(min(max(size) / 6, 6.0)))
    colour = base.mean(axis=(0, 1)) * np.float32(contrast_factor(rng, base, 0.7 * strength, 0.6))
    if rng.random() < 0.3:
        colour = scene.under if scene.light is None else scene.under * np.float32(scene.light[shape.window].mean())
    target = times(toward(base, colour, 0.8), 1 + np.float32(0.7 * strength) * lean)
    return Stroke(shape, target, ("rough", "jagged"))


def corrosion(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """Pits and crusts of rust or white bloom, dense in the middle, with a stained halo."""
    shape = _area(rng, scene, 0.02, 0.22, soft=0.6)
    if shape is None or shape.depth is None:
        return None
    size = shape.alpha.shape
    crust = fractal(rng, *size, max(max(size) / float(rng.uniform(4, 14)), 2), 3, 0.8)
    lean = np.tanh(np.float32(0.5 * max(size) / 6) * _lean(rng, crust))
    eaten = ramp(crust + np.float32(2.5) * shape.depth, 0.6, 1.2)
    rust = hsv(float(rng.uniform(0.02, 0.1)), float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.15, 0.55)))
    colour = rust if rng.random() < 0.7 else pick(rng, "pale", "dark", "grey")
    skin = times(lit(scene, shape, colour), 1 + np.float32(0.25) * np.clip(crust, -2, 2) + lean)
    halo = np.float32(rng.uniform(0, 0.5)) * ramp(shape.depth, -0.1, 0.6)
    shape.alpha = np.maximum(eaten, halo) * np.float32(max(strength, 0.35))
    return Stroke(shape, skin, ("crusted",))


def smear(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A wiped film of glue, grease or ink: streaks along one direction, some edges dried."""
    shape = _area(rng, scene, 0.03, 0.25, rough=0.6, soft=float(rng.uniform(0.05, 0.4)))
    if shape is None or shape.depth is None:
        return None
    base, size = region(scene, shape), shape.alpha.shape
    fine, long = float(rng.uniform(1.5, 5)), float(rng.uniform(15, 60))
    streaks, _ = turned(rng, *size, lambda rows, columns: smooth(rng, rows, columns, fine, long), oblique=0.6)
    cover = ramp(streaks, *((-1.4, 0.2) if rng.random() < 0.6 else (-2.5, -1.0)))
    rim = ramp(-np.abs(shape.depth - np.float32(0.06)), -0.1, 0.0) * np.float32(rng.choice([0.0, 0.5]))
    colour = pick(rng, "pale", "dark", "vivid", "earth", "grey")
    film = toward(base, lit(scene, shape, colour), float(rng.uniform(0.25, 0.8)) * max(strength, 0.4))
    if rng.random() < 0.4:
        film = base * np.float32(contrast_factor(rng, base, 0.6 * strength, 0.5))
    shape.alpha = shape.alpha * np.clip(cover + rim, 0, 1)
    return Stroke(shape, times(film, 1 - np.float32(0.4) * rim), ("streaked",))


def burn(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A scorched or bleached place: a dark or pale core in rings of tint that fade outwards."""
    shape = _area(rng, scene, 0.03, 0.25, rough=0.35, soft=0.7)
    if shape is None or shape.depth is None:
        return None
    base = region(scene, shape)
    core = ramp(shape.depth, 0.2, 0.7)[..., None]
    tint = np.float32([1.0, rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.9)])
    bleached = rng.random() < 0.25
    outer = base * (tint if not bleached else np.float32(1 + 0.4 * strength))
    inner = base * np.float32(1 + 0.8 * strength if bleached else 1 - 0.85 * strength)
    return Stroke(shape, outer + core * (inner - outer), ("faded" if bleached else "scorched",))


def crazing(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """A net of hair-fine cracks over a part of the surface."""
    shape = _area(rng, scene, 0.05, 0.25, soft=0.4)
    if shape is None:
        return None
    base, size = region(scene, shape), shape.alpha.shape
    _, border, value = cells(rng, *size, max(reach(rng, scene, 0.03, 0.12), 8.0), float(rng.uniform(0.6, 1.6)))
    fine = float(rng.uniform(0.06, 0.14))
    cracked = ramp(-border, -fine, -0.3 * fine) * ramp(value, 0.05, 0.15)
    shape.alpha = shape.alpha * cracked
    dark = rng.random() < 0.75
    factor = 1 - 0.8 * max(strength, 0.3) if dark else 1 + 0.8 * max(strength, 0.3)
    return Stroke(shape, base * np.float32(factor), ("netted",))


def wear(rng: np.random.Generator, scene: Scene, strength: float) -> Stroke | None:
    """The surface rubbed smooth: its texture is weaker there, its tone a little other."""
    shape = _area(rng, scene, 0.04, 0.25, soft=float(rng.uniform(0.1, 0.4)))
    if shape is None:
        return None
    base = region(scene, shape)
    far = float(rng.uniform(2, 6))
    flat = np.stack([smooth_edges(base[..., channel], far) for channel in range(3)], axis=2)
    tone = np.float32(contrast_factor(rng, base, 0.5 * strength, 0.4))
    return Stroke(shape, toward(base, flat, float(rng.uniform(0.6, 1.0))) * tone, ("rubbed",))
