"""Wood, leather and pebbled skins, and smooth plastic, paint or glass."""

import numpy as np

from agvas_train.data.synth.colours import blend, pick, shade, times
from agvas_train.data.synth.fields import Field, cells, fractal, ramp, smooth, turned, white
from agvas_train.data.synth.scene import Scene


def wood(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Grain lines that bend together, pores along them."""
    pitch, sharp = float(np.exp(rng.uniform(np.log(5), np.log(40)))), float(rng.uniform(0.6, 2.5))
    bend, fibre = float(rng.uniform(0.2, 1.2)), float(rng.uniform(0.03, 0.15))

    def make(rows: int, columns: int) -> Field:
        y = np.arange(rows, dtype=np.float32)[:, None] / np.float32(pitch)
        y = y + np.float32(bend) * smooth(rng, rows, columns, pitch * 3, columns / float(rng.uniform(1, 3)))
        y += np.float32(0.25) * smooth(rng, rows, columns, pitch, columns / 3)
        ring = y - np.floor(y)
        ring = ramp(ring, 0.0, 0.85) * ramp(-ring, -1.0, -0.85) if sharp > 1.4 else np.abs(ring * 2 - 1)
        pores = smooth(rng, rows, columns, 1.2, float(rng.uniform(12, 40)))
        return np.float32(0.6) * ring + np.float32(fibre) * pores + np.float32(0.12) * smooth(rng, rows, columns, 6, 90)

    field, angle = turned(rng, height, width, make, oblique=0.15)
    field = field + np.float32(rng.uniform(0.01, 0.04)) * white(rng, height, width)
    first = pick(rng, "wood")
    second = shade(first, float(rng.uniform(0.5, 0.9)))
    return Scene(
        kind="wood",
        name=("wood", "wooden board", "veneer")[int(rng.integers(3))],
        expect="an even grain",
        rgb=blend(field, first, second),
        defects={
            "scratch": 1.5,
            "gouge": 1,
            "hole": 1.2,
            "stain": 1.4,
            "crack": 1,
            "colour fault": 0.8,
            "contamination": 0.7,
            "dent": 0.5,
            "displaced part": 0.5,
            "missing part": 0.3,
            "scale": 0.3,
        },
        under=shade(first, float(rng.uniform(0.1, 0.4))),
        angle=angle,
    )


def leather(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Pebbles with creases between them, lit from one side."""
    cell = float(np.exp(rng.uniform(np.log(4), np.log(22))))
    distance, border, _ = cells(rng, height, width, cell, float(rng.uniform(0.7, 1.4)))
    relief = ramp(border, 0.0, float(rng.uniform(0.15, 0.5))) - np.float32(0.4) * distance
    relief = relief + np.float32(0.15) * smooth(rng, height, width, cell * 0.4)
    slope = np.zeros_like(relief)
    step = max(int(cell / 6), 1)
    slope[step:, step:] = relief[step:, step:] - relief[:-step, :-step]
    strength = float(rng.uniform(0.05, 0.3))
    field = np.float32(strength) * (relief + np.float32(rng.uniform(0.3, 1.2)) * slope)
    field += np.float32(0.02) * white(rng, height, width) + np.float32(0.02) * fractal(
        rng, height, width, height / 4, 2
    )
    base = pick(rng, "leather", "leather", "dark", "vivid", "grey")
    plastic = rng.random() < 0.3
    return Scene(
        kind="leather",
        name="pebbled plastic" if plastic else ("leather", "artificial leather")[int(rng.integers(2))],
        expect="an even pebbled texture",
        rgb=times(base, field + 1) + times(np.full(3, 0.1, np.float32), np.maximum(field, 0)),
        defects={
            "scratch": 1.5,
            "scuff": 0.8,
            "bubble": 0.4,
            "crease": 1,
            "gouge": 0.5,
            "crazing": 0.4,
            "hole": 1.2,
            "stain": 1,
            "crack": 0.8,
            "colour fault": 0.8,
            "contamination": 1,
            "dent": 0.8,
            "fray": 0.5,
            "distortion": 0.6,
        },
        under=pick(rng, "dark", "pale", "leather"),
    )


def plain(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Nearly textureless: moulded plastic, paint with orange peel, glass."""
    base = pick(rng, "vivid", "pale", "grey", "dark", "metal")
    field = np.float32(rng.uniform(0.0, 0.025)) * smooth(rng, height, width, float(rng.uniform(2, 8)))
    field = field + np.float32(rng.uniform(0.0, 0.06)) * smooth(rng, height, width, height / 2)
    field += np.float32(rng.uniform(0.003, 0.012)) * white(rng, height, width)
    return Scene(
        kind="smooth",
        name=("plastic", "painted metal", "glass", "ceramic")[int(rng.integers(4))],
        expect="a smooth, uniform surface",
        rgb=times(base, field + 1),
        defects={
            "scratch": 2,
            "gouge": 0.8,
            "bubble": 1,
            "scuff": 1,
            "crazing": 0.6,
            "crease": 0.5,
            "dent": 1.2,
            "stain": 1.2,
            "contamination": 1.5,
            "crack": 1,
            "hole": 1,
            "uneven": 0.6,
            "colour fault": 0.6,
            "scale": 0.3,
        },
        under=shade(base, float(rng.uniform(0.1, 0.5))),
    )
