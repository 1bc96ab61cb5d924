"""Surfaces that are like nothing in particular: random fields, folded, laid over each other and coloured.

The other families are few and could be learnt by heart; of these no two are alike.
"""

import numpy as np

from agvas_train.data.synth.colours import blend, pick, shade, times
from agvas_train.data.synth.fields import Field, cells, ramp, smooth, turned, white
from agvas_train.data.synth.scene import Scene

_COLOURS = ("grey", "metal", "stone", "earth", "vivid", "pale", "leather", "wood")


def layer(rng: np.random.Generator, height: int, width: int) -> Field:
    """A random field [H,W], deviation about 1: noise, drawn-out noise, wavy lines or cells, folded or not."""
    cell = float(np.exp(rng.uniform(np.log(1.5), np.log(36))))
    form = rng.random()
    if form < 0.35:
        field = smooth(rng, height, width, cell)
    elif form < 0.6:
        long = cell * float(rng.uniform(3, 14))
        field, _ = turned(rng, height, width, lambda rows, columns: smooth(rng, rows, columns, cell, long))
    elif form < 0.85:
        pitch, sway = max(cell, 3.0), np.float32(rng.uniform(0.0, 0.25))

        def wavy(rows: int, columns: int) -> Field:
            phase = np.arange(columns, dtype=np.float32)[None] / np.float32(pitch)
            return np.sin(np.float32(2 * np.pi) * (phase + sway * smooth(rng, rows, columns, pitch * 5)))

        field, _ = turned(rng, height, width, wavy)
    else:
        _, border, value = cells(rng, height, width, max(cell, 3.0), float(rng.uniform(0.5, 2)))
        field = np.float32(3) * (value - np.float32(0.5)) if rng.random() < 0.5 else 2 * ramp(border, 0.0, 0.3) - 1
    fold = int(rng.integers(5))
    if fold == 1:
        return np.float32(1.6) * (np.abs(field) - np.float32(0.8))
    if fold == 2:
        return np.tanh(np.float32(rng.uniform(1.5, 5)) * field)
    if fold == 3:
        return np.sin(np.float32(rng.uniform(1.5, 4)) * field)
    return field


def abstract(rng: np.random.Generator, height: int, width: int) -> Scene:
    """One to four such fields, added, multiplied or each in its own regions."""
    field = layer(rng, height, width)
    for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
        other, how = layer(rng, height, width), rng.random()
        if how < 0.5:
            field = field + np.float32(rng.uniform(0.2, 1)) * other
        elif how < 0.75:
            field = field * (1 + np.float32(0.6) * other)
        else:
            where = ramp(layer(rng, height, width), 0.0, 0.1)
            field = where * field + (1 - where) * other
    field = field / max(float(field.std()), 0.05)
    base, strength = pick(rng, *_COLOURS), float(np.exp(rng.uniform(np.log(0.03), np.log(0.35))))
    if rng.random() < 0.5:
        rgb = times(base, 1 + np.float32(strength) * field)
    else:
        second = pick(rng, *_COLOURS)
        near = base + np.float32(min(1.0, 3 * strength)) * (second - base)
        rgb = blend(np.clip(np.float32(0.5) + np.float32(0.35) * field, 0, 1), base, near)
    grain = np.float32(rng.uniform(0, 0.04)) * white(rng, height, width)
    return Scene(
        kind="pattern",
        name=("patterned surface", "structured surface")[int(rng.integers(2))],
        expect="the same pattern everywhere",
        rgb=times(rgb, 1 + grain),
        defects={
            "scratch": 1,
            "crease": 0.5,
            "spalling": 0.7,
            "corrosion": 0.5,
            "gouge": 0.6,
            "crazing": 0.5,
            "bubble": 0.4,
            "scuff": 0.4,
            "lesion": 0.5,
            "crack": 1,
            "stain": 1,
            "hole": 0.8,
            "dent": 0.5,
            "contamination": 1,
            "inclusion": 0.8,
            "missing part": 0.5,
            "displaced part": 0.6,
            "distortion": 0.5,
            "colour fault": 0.8,
            "uneven": 0.4,
            "scale": 0.8,
            "foreign patch": 1.5,
        },
        under=shade(base, float(rng.uniform(0.1, 0.5))),
        angle=float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])),
    )
