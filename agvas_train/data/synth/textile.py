"""Textiles: woven cloth and carpet, knitted fabric, felt."""

import numpy as np

from agvas_train.data.synth.colours import blend, pick, shade, times
from agvas_train.data.synth.fields import Field, fractal, rotate, smooth, white
from agvas_train.data.synth.scene import Scene

_DEFECTS = {
    "crease": 0.8,
    "stain": 1.2,
    "hole": 1.0,
    "missing part": 1.2,
    "displaced part": 0.8,
    "contamination": 1.2,
    "fray": 1.2,
    "colour fault": 1.0,
    "scratch": 0.5,
    "uneven": 0.3,
    "distortion": 1.0,
}


def _wave(phase: Field) -> Field:
    """A thread's profile from its phase in turns: 0 in the gap, 1 on the crest."""
    return np.float32(1) - np.float32(4) * (phase - np.floor(phase) - np.float32(0.5)) ** 2


def _weave(rng: np.random.Generator, rows: int, columns: int, pitch: float, twill: int) -> tuple[Field, Field]:
    """Brightness in [0,1] and which thread is on top (1: warp) for a plain (1) or twill weave."""
    sway = np.float32(rng.uniform(0.02, 0.25))
    y = np.arange(rows, dtype=np.float32)[:, None] / np.float32(pitch)
    x = np.arange(columns, dtype=np.float32)[None] / np.float32(pitch * rng.uniform(0.8, 1.25))
    y = y + sway * smooth(rng, rows, columns, pitch * 4, pitch * 12)
    x = x + sway * smooth(rng, rows, columns, pitch * 12, pitch * 4)
    warp_on_top = (np.floor(x) + np.floor(y)) % (twill + 1) < 1 if twill > 1 else (np.floor(x) + np.floor(y)) % 2 < 1
    along_x, along_y = _wave(x), _wave(y)
    top = np.where(
        warp_on_top,
        along_x * (np.float32(0.5) + np.float32(0.5) * along_y),
        along_y * (np.float32(0.5) + np.float32(0.5) * along_x),
    )
    return top.astype(np.float32), warp_on_top.astype(np.float32)


def woven(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Cloth of crossing threads: plain, twill, coarse burlap."""
    pitch = float(np.exp(rng.uniform(np.log(2.6), np.log(16))))
    angle = float(rng.choice([0.0, 0.0, rng.normal(0, 0.06), rng.uniform(-0.8, 0.8)]))
    c, s = abs(float(np.cos(angle))), abs(float(np.sin(angle)))
    rows, columns = int(np.ceil(height * c + width * s)), int(np.ceil(width * c + height * s))
    top, warp = _weave(rng, rows, columns, pitch, int(rng.choice([1, 1, 2, 3])))
    thread = smooth(rng, rows, columns, pitch * 8, pitch) * warp + smooth(rng, rows, columns, pitch, pitch * 8) * (
        1 - warp
    )
    field = np.float32(rng.uniform(0.5, 1)) * top + np.float32(rng.uniform(0.05, 0.2)) * thread
    if angle != 0.0:
        field, warp = rotate(field, height, width, angle), rotate(warp, height, width, angle)
    field = field + np.float32(rng.uniform(0.02, 0.12)) * white(rng, height, width)
    first = pick(rng, "grey", "earth", "vivid", "pale", "leather")
    second = first if rng.random() < 0.6 else pick(rng, "earth", "pale", "vivid", "dark")
    gap = shade(first, float(rng.uniform(0.15, 0.75)))
    rgb = blend(np.clip(field, 0, 1.3), gap, first)
    if second is not first:
        rgb = rgb + times((second - first) * np.float32(0.8), warp * np.clip(field, 0, 1))
    return Scene(
        kind="woven",
        name=("woven fabric", "cloth", "burlap" if pitch > 7 else "carpet")[int(rng.integers(3))],
        expect="a regular weave",
        rgb=rgb,
        defects=_DEFECTS,
        under=pick(rng, "dark", "pale", "grey"),
        angle=angle if rng.random() < 0.5 else angle + np.pi / 2,
    )


def knitted(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Rows of V-shaped loops."""
    pitch = float(rng.uniform(5, 20))
    y = np.arange(height, dtype=np.float32)[:, None] / np.float32(pitch)
    x = np.arange(width, dtype=np.float32)[None] / np.float32(pitch * rng.uniform(0.8, 1.2))
    sway = np.float32(rng.uniform(0.02, 0.12))
    x = x + sway * smooth(rng, height, width, pitch * 5)
    y = y + sway * smooth(rng, height, width, pitch * 5)
    arm = np.abs(x - np.floor(x) - np.float32(0.5)) * np.float32(2)
    loop = _wave(y + np.float32(rng.uniform(0.4, 0.9)) * arm)
    field = np.float32(0.75) * loop * (np.float32(0.35) + np.float32(0.65) * _wave(x * 2)) + np.float32(0.1) * white(
        rng, height, width
    )
    first = pick(rng, "grey", "vivid", "pale", "earth")
    return Scene(
        kind="knitted",
        name="knitted fabric",
        expect="regular rows of loops",
        rgb=blend(field, shade(first, float(rng.uniform(0.2, 0.6))), first),
        defects=_DEFECTS,
        under=pick(rng, "dark", "pale"),
        angle=0.0,
    )


def felt(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A mat of short fibres without direction."""
    cell = float(rng.uniform(1.5, 5))
    field = smooth(rng, height, width, cell, cell * 4) + smooth(rng, height, width, cell * 4, cell)
    field = np.float32(rng.uniform(0.02, 0.12)) * (field + np.float32(0.7) * white(rng, height, width))
    field += np.float32(rng.uniform(0.01, 0.05)) * fractal(rng, height, width, height / 5, 3)
    first = pick(rng, "grey", "vivid", "pale", "earth")
    return Scene(
        kind="felt",
        name=("felt", "fleece")[int(rng.integers(2))],
        expect="an even mat of fibres",
        rgb=times(first, field + 1),
        defects={key: value for key, value in _DEFECTS.items() if key not in ("displaced part", "distortion", "fray")},
        under=pick(rng, "dark", "pale"),
    )
