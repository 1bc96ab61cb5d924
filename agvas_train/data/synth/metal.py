"""Metal surfaces: brushed or ground, rolled strip, castings."""

import numpy as np

from agvas_train.data.synth.colours import pick, shade, times
from agvas_train.data.synth.fields import Field, fractal, smooth, turned, white
from agvas_train.data.synth.scene import Scene


def brushed(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Fine streaks along one direction, with slower bands."""
    length, fine = float(rng.uniform(15, 120)), float(rng.uniform(0.02, 0.1))

    def make(rows: int, columns: int) -> Field:
        streak = smooth(rng, rows, columns, float(rng.uniform(0.8, 2.2)), length)
        band = smooth(rng, rows, columns, float(rng.uniform(4, 20)), length * 4)
        return np.float32(fine) * (streak + np.float32(rng.uniform(0.2, 1.0)) * band)

    field, angle = turned(rng, height, width, make)
    field = field + np.float32(fine * rng.uniform(0.1, 0.5)) * white(rng, height, width)
    field += np.float32(rng.uniform(0.0, 0.06)) * fractal(rng, height, width, height / rng.uniform(2, 5), 2)
    base = pick(rng, "metal", "metal", "grey", "brass")
    name = ("brushed steel", "brushed aluminium", "ground metal")[int(rng.integers(3))]
    return Scene(
        kind="brushed",
        name=name,
        expect="fine, even lines in one direction",
        rgb=times(base, field + 1),
        defects={
            "scratch": 2,
            "corrosion": 0.8,
            "scuff": 1,
            "bubble": 0.3,
            "gouge": 0.8,
            "crack": 1.2,
            "hole": 1,
            "stain": 1.2,
            "dent": 0.8,
            "contamination": 0.8,
            "uneven": 0.8,
            "displaced part": 0.3,
            "inclusion": 0.6,
            "scale": 0.4,
            "fray": 0.5,
            "colour fault": 0.3,
        },
        under=shade(base, float(rng.uniform(0.05, 0.4))),
        angle=angle,
    )


def rolled(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Speckle and slow mottling, sometimes drawn out along the rolling direction."""
    cell, stretch = float(rng.uniform(1.0, 3.5)), float(rng.choice([1.0, rng.uniform(1, 4)]))
    speckle = float(rng.choice([rng.uniform(0.01, 0.05), rng.uniform(0.05, 0.2)]))

    def make(rows: int, columns: int) -> Field:
        return smooth(rng, rows, columns, cell, cell * stretch) + np.float32(0.5) * smooth(
            rng, rows, columns, cell * 3, cell * 3 * stretch
        )

    grain, angle = turned(rng, height, width, make, oblique=0.15)
    mottle = fractal(rng, height, width, height / float(rng.uniform(2, 8)), 3)
    field = np.float32(speckle) * grain + np.float32(rng.uniform(0.0, 0.07)) * mottle
    field = field + np.float32(speckle * 0.5) * white(rng, height, width)
    base = pick(rng, "metal", "grey", "grey")
    cast = rng.random() < 0.4
    return Scene(
        kind="cast" if cast else "rolled",
        name=("cast metal", "cast iron")[int(rng.integers(2))]
        if cast
        else ("rolled steel", "steel strip")[int(rng.integers(2))],
        expect="a rough but even surface" if cast else "an even rolled surface",
        rgb=times(base, field + 1),
        defects={
            "scale": 1.5,
            "corrosion": 0.8,
            "gouge": 0.6,
            "spalling": 0.6,
            "inclusion": 1.5,
            "scratch": 1.5,
            "hole": 1.2,
            "crack": 1,
            "stain": 0.8,
            "uneven": 0.6,
            "dent": 0.5,
            "contamination": 0.6,
            "colour fault": 0.3,
        },
        under=shade(base, float(rng.uniform(0.05, 0.4))),
        angle=angle,
    )
