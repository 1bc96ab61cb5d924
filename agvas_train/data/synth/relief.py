"""Rough surfaces lit from one side: plaster, sandpaper; sponge and crumb with their pores; heaps of pieces; fibres."""

from functools import lru_cache

import numpy as np
from PIL import Image

from agvas_train.data.synth.colours import blend, pick, shade, times
from agvas_train.data.synth.fields import Field, cells, fractal, ramp, smooth, turned, white
from agvas_train.data.synth.scene import Scene

_DEFECTS = {
    "spalling": 1.0,
    "crazing": 0.8,
    "gouge": 0.6,
    "crack": 1.5,
    "scratch": 1.0,
    "hole": 0.8,
    "stain": 1.2,
    "missing part": 0.6,
    "scale": 0.5,
    "colour fault": 0.6,
    "uneven": 0.4,
    "foreign patch": 0.8,
}


def slope(rng: np.random.Generator, relief: Field, turn: float | None = None) -> Field:
    """How far each place of a relief [H,W] leans towards a lamp at one side, deviation 1."""
    turn = float(rng.uniform(0, 2 * np.pi)) if turn is None else turn
    leaning = np.zeros_like(relief)
    leaning[1:] = np.float32(np.sin(turn)) * np.diff(relief, axis=0)
    leaning[:, 1:] += np.float32(np.cos(turn)) * np.diff(relief, axis=1)
    return leaning / max(float(leaning.std()), 1e-4)


def plaster(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Render, sandpaper, unglazed ceramic, paper pulp: bumps of many sizes, sometimes with strokes of a trowel."""
    cell = float(np.exp(rng.uniform(np.log(3), np.log(60))))
    relief = fractal(rng, height, width, cell, 4, float(rng.uniform(0.35, 0.9)))
    if rng.random() < 0.35:
        long = cell * float(rng.uniform(3, 10))
        strokes, _ = turned(rng, height, width, lambda rows, columns: smooth(rng, rows, columns, cell, long), 0.6)
        relief = relief + np.float32(rng.uniform(0.3, 1.5)) * strokes
    strength = np.float32(np.exp(rng.uniform(np.log(0.02), np.log(0.2))))
    field = strength * np.clip(slope(rng, relief), -3, 3)
    field += np.float32(strength * rng.uniform(0, 0.8)) * np.clip(relief, -2.5, 2.5)
    field = field + np.float32(rng.uniform(0.003, 0.03)) * white(rng, height, width)
    base = pick(rng, "stone", "pale", "earth", "grey", "vivid", "dark")
    return Scene(
        kind="plaster",
        name=("plaster", "rough ceramic", "sandpaper", "rough paint")[int(rng.integers(4))],
        expect="an even roughness",
        rgb=times(base, field + 1),
        defects=_DEFECTS,
        under=shade(base, float(rng.uniform(0.1, 0.6))),
    )


def foam(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Sponge, foam, crumb: pores of many sizes, close together."""
    base = pick(rng, "pale", "earth", "vivid", "wood", "grey")
    rgb = times(base, 1 + np.float32(0.04) * smooth(rng, height, width, 2))
    depth = np.zeros((height, width), np.float32)
    cell = float(np.exp(rng.uniform(np.log(5), np.log(28))))
    for level in range(2):
        distance, border, value = cells(rng, height, width, cell / (2.2**level), float(rng.uniform(0.7, 1.4)))
        open_ = ramp(border, 0.05, float(rng.uniform(0.25, 0.6))) * ramp(value, 0.25, 0.5)
        depth = np.maximum(depth, open_ * (1 - np.float32(0.4) * distance) * np.float32(0.8**level))
    dark = np.float32(rng.uniform(0.25, 0.8)) * depth
    lean = np.float32(rng.uniform(0.02, 0.1)) * np.clip(slope(rng, -depth), -3, 3)
    return Scene(
        kind="foam",
        name=("foam", "sponge", "porous ceramic", "crumb")[int(rng.integers(4))],
        expect="an even structure of pores",
        rgb=times(rgb, np.maximum(1 - dark + lean, 0.02)),
        defects={key: _DEFECTS[key] for key in ("crack", "stain", "missing part", "foreign patch", "colour fault")},
        under=shade(base, float(rng.uniform(0.05, 0.3))),
    )


@lru_cache(maxsize=2)
def _grid(side: int) -> tuple[Field, Field]:
    y, x = np.mgrid[-1.1 : 1.1 : side * 1j, -1.1 : 1.1 : side * 1j].astype(np.float32)
    return y, x


def _pieces(rng: np.random.Generator, size: float, aspect: float, lamp: float) -> list[Image.Image]:
    """Sixteen looks of a rounded piece `size` pixels long, shaded like a dome and lit from `lamp`."""
    y, x = _grid(48)
    base, second = pick(rng, "wood", "earth", "pale", "stone", "vivid", "dark"), pick(rng, "earth", "stone", "pale")
    mixed, boxy, rough = rng.random() < 0.35, float(rng.choice([2.0, 2.0, 3.0])), float(rng.choice([0.0, 0.15]))
    pieces = []
    for turn in rng.uniform(0, np.pi, 16):
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        far = np.abs(x * c + y * s) ** boxy + np.abs((y * c - x * s) / np.float32(aspect)) ** boxy
        far = far + np.float32(rough) * smooth(rng, 48, 48, 16)
        dome = np.sqrt(np.clip(1 - far, 0, 1))
        lit = 0.55 + 0.45 * dome + 0.35 * (x * np.float32(np.cos(lamp)) + y * np.float32(np.sin(lamp)))
        colour = (second if mixed and rng.random() < 0.5 else base) * np.float32(np.exp(rng.normal(0, 0.08)))
        rgba = np.dstack((times(colour, lit), np.clip((1 - far) * 6, 0, 1)))
        pixels = max(round(size * float(np.exp(rng.normal(0, 0.1)))), 4)
        picture = Image.fromarray((np.clip(rgba, 0, 1) * 255).astype(np.uint8), "RGBA")
        pieces.append(picture.resize((pixels, pixels), Image.Resampling.BILINEAR))
    return pieces


def heap(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Loose goods seen from above: beans, pellets, gravel, grains, each over the others."""
    size = float(np.exp(rng.uniform(np.log(14), np.log(70))))
    aspect = float(rng.choice([1.0, rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.5)]))
    pieces = _pieces(rng, size, aspect, float(rng.uniform(0, 2 * np.pi)))
    ground = float(rng.uniform(0.02, 0.25))
    picture = Image.new("RGB", (width, height), (round(255 * ground),) * 3)
    count = int(min(4.5 * height * width / (size * size * aspect), 1500))
    xs, ys = rng.uniform(-size, width, count).astype(int), rng.uniform(-size, height, count).astype(int)
    for at, (x, y) in enumerate(zip(xs.tolist(), ys.tolist(), strict=True)):
        piece = pieces[at % len(pieces)]
        picture.paste(piece, (x, y), piece)
    rgb = np.asarray(picture, np.float32) * np.float32(1 / 255)
    return Scene(
        kind="heap",
        name=("heap of beans", "heap of pellets", "gravel", "heap of grains")[int(rng.integers(4))],
        expect="equal pieces without foreign matter",
        rgb=times(rgb, 1 + np.float32(0.03) * white(rng, height, width)),
        defects={"stain": 1, "colour fault": 1, "foreign patch": 2, "inclusion": 0.6, "uneven": 0.4, "scale": 0.6},
        under=np.full(3, ground, np.float32),
    )


def flakes(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Pressed boards, mats and papers: fibres or chips of several tones that lie over each other in all directions."""
    size = float(np.exp(rng.uniform(np.log(3), np.log(18))))
    stretch = float(rng.uniform(2.5, 9))
    field = np.zeros((height, width), np.float32)
    for turn in (0.0, 0.8, 1.6, 2.4):
        rows, columns = height + 8, width + 8
        lay, _ = turned(rng, rows, columns, lambda r, c: smooth(rng, r, c, size, size * stretch), 0.7)
        top = ramp(lay[4 : 4 + height, 4 : 4 + width], 0.3, 0.9)
        field = field * (1 - top) + top * np.float32(np.sin(turn * 5) + rng.normal(0, 0.4))
    base = pick(rng, "wood", "pale", "earth", "grey")
    contrast = float(np.exp(rng.uniform(np.log(0.04), np.log(0.3))))
    low, high = shade(base, 1 - contrast), shade(base, 1 + contrast)
    rgb = blend(np.clip(np.float32(0.5) + np.float32(0.35) * field, 0, 1), low, high)
    return Scene(
        kind="flakes",
        name=("particle board", "fibre mat", "rough paper")[int(rng.integers(3))],
        expect="an even mix of fibres",
        rgb=times(rgb, 1 + np.float32(rng.uniform(0.01, 0.05)) * white(rng, height, width)),
        defects=_DEFECTS,
        under=shade(base, float(rng.uniform(0.1, 0.5))),
    )
