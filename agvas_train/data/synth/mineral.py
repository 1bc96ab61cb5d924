"""Mineral surfaces: asphalt and concrete, granite and terrazzo."""

import numpy as np

from agvas_train.data.synth.colours import blend, over, pick, shade, times
from agvas_train.data.synth.fields import cells, fractal, ramp, smooth, white
from agvas_train.data.synth.scene import Scene

_DEFECTS = {
    "spalling": 1.0,
    "crack": 3.0,
    "hole": 0.8,
    "stain": 1.0,
    "contamination": 0.8,
    "chip": 0.5,
    "scratch": 0.6,
    "colour fault": 0.4,
    "missing part": 0.4,
    "scale": 0.4,
}


def asphalt(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Coarse grains of many brightnesses with dark gaps between them, or the finer grain of concrete."""
    concrete = rng.random() < 0.35
    cell = float(rng.uniform(2, 5) if concrete else rng.uniform(2.5, 9))
    strength = float(rng.uniform(0.02, 0.07) if concrete else rng.uniform(0.05, 0.16))
    grain = smooth(rng, height, width, cell * 0.5)
    if concrete:
        field = grain + np.float32(0.7) * white(rng, height, width)
    else:
        _, border, value = cells(rng, height, width, cell)
        field = np.float32(1.2) * (value - np.float32(0.5)) + ramp(border, 0.0, 0.25) - np.float32(0.8)
        field = field + np.float32(0.6) * grain + np.float32(0.5) * white(rng, height, width)
        field += np.float32(rng.uniform(0, 4)) * ramp(value, 0.97, 1.0)
    field = np.float32(strength) * field
    field += np.float32(rng.uniform(0.01, 0.05)) * fractal(rng, height, width, height / float(rng.uniform(2, 6)), 3)
    base = pick(rng, "stone", "grey", "stone")
    warm = blend(
        np.clip(smooth(rng, height, width, cell), -1.5, 1.5),
        shade(base, 1.0),
        shade(base, 1.0) * (1 + rng.normal(0, 0.012, 3).astype(np.float32)),
    )
    return Scene(
        kind="asphalt",
        name="concrete" if concrete else "asphalt",
        expect="an even grain without gaps",
        rgb=times(warm, field + 1),
        defects=_DEFECTS,
        under=shade(base, float(rng.uniform(0.1, 0.4))),
    )


def stone(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Polished stone: chips of two or three colours in a ground (terrazzo), or dense speckle (granite)."""
    terrazzo = rng.random() < 0.5
    cell = float(rng.uniform(8, 30) if terrazzo else rng.uniform(2.5, 9))
    distance, border, value = cells(rng, height, width, cell, float(rng.uniform(0.7, 1.5)))
    ground, chip, fleck = (
        pick(rng, "stone", "pale"),
        pick(rng, "stone", "earth", "dark"),
        pick(rng, "stone", "pale", "dark"),
    )
    if terrazzo:
        size = value * np.float32(0.4) + np.float32(0.05)
        chips = ramp(size - distance, 0.0, 0.06) * ramp(border, 0.05, 0.12)
    else:
        chips = ramp(value + np.float32(0.15) * smooth(rng, height, width, cell * 0.5), 0.45, 0.65)
    rgb = blend(chips, ground, chip)
    second = ramp((value * 7) % 1, 0.6, 0.65) * (chips if terrazzo else np.float32(0.7))
    rgb = over(rgb, second, fleck)
    tone = np.float32(rng.uniform(0.01, 0.05)) * (
        white(rng, height, width) + fractal(rng, height, width, height / 4, 2)
    )
    return Scene(
        kind="stone",
        name="terrazzo" if terrazzo else "granite",
        expect="evenly spread grains",
        rgb=times(rgb, tone + 1),
        defects=_DEFECTS,
        under=shade(ground, float(rng.uniform(0.1, 0.4))),
    )
