"""Ropes and braids, and the cut ends of cables."""

import numpy as np
from PIL import Image, ImageDraw

from agvas_train.data.synth.colours import Colour, blend, over, pick, shade, times
from agvas_train.data.synth.fields import Field, ramp, smooth, white
from agvas_train.data.synth.parts import background
from agvas_train.data.synth.scene import Scene


def _strands(rng: np.random.Generator, along: Field, round_: Field, braided: bool) -> tuple[Field, Field]:
    """Shade of twisted or braided strands at places along and around a rope (both in radii), and a value a strand."""
    lean, pitch = float(rng.uniform(0.4, 1.4)), float(np.exp(rng.uniform(np.log(0.25), np.log(1.1))))
    one = (along + np.float32(lean) * round_) / np.float32(pitch)
    number = np.floor(one)
    bump = np.float32(1) - np.abs(2 * (one - number) - 1)
    if braided:
        two = (along - np.float32(lean) * round_) / np.float32(pitch)
        second = np.float32(1) - np.abs(2 * (two - np.floor(two)) - 1)
        upper = (np.floor(one) + np.floor(two)) % 2 > 0
        bump, number = np.where(upper, bump, second), np.where(upper, number, np.floor(two) + 1)
    return np.sqrt(np.clip(bump, 0, 1)).astype(np.float32), ((number * np.float32(0.618)) % 1).astype(np.float32)


def rope(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A twisted rope or braided cable across the picture, its strands round and fibrous."""
    upright, braided = rng.random() < 0.5, rng.random() < 0.4
    rows, columns = (width, height) if upright else (height, width)
    radius = float(rows * np.exp(rng.uniform(np.log(0.12), np.log(0.6))))
    lean, bow = rng.normal(0, 0.12), rng.normal(0, 0.1)
    x = np.arange(columns, dtype=np.float32)[None] - np.float32(columns / 2)
    middle = rows * float(rng.uniform(0.4, 0.6)) + np.float32(lean) * x + np.float32(bow / columns) * x * x
    across = (np.arange(rows, dtype=np.float32)[:, None] - middle) / np.float32(radius)
    bump, value = _strands(rng, x / np.float32(radius), np.arcsin(np.clip(across, -1, 1)), braided)
    across = across * (1 + np.float32(rng.uniform(0.0, 0.05)) * (1 - bump))
    tilt = np.float32(rng.uniform(-0.6, 0.6))
    dome = np.sqrt(np.clip(1 - across * across, 0, 1))
    face = np.float32(0.6) * dome + np.float32(0.35) - np.float32(0.4) * tilt * across
    face = face * (np.float32(rng.uniform(0.1, 0.5)) + bump * np.float32(0.75))
    fuzz = np.float32(rng.uniform(0.02, 0.12)) * smooth(rng, rows, columns, 1.2, float(rng.uniform(2, 9)))
    face = (face * (1 + fuzz + np.float32(rng.uniform(0, 0.05)) * white(rng, rows, columns))).astype(np.float32)
    base = pick(rng, "earth", "pale", "wood", "grey", "vivid", "metal")
    second = pick(rng, "vivid", "dark", "pale") if rng.random() < 0.3 else shade(base, float(rng.uniform(0.85, 1.15)))
    rgb = times(blend((value > np.float32(0.6)).astype(np.float32), base, second), (face * 1.15).astype(np.float32))
    back, under = background(rng, rows, columns)
    cover = ramp(1 - np.abs(across), -0.6 / radius, 0.6 / radius)
    rgb, body = over(back, cover, rgb), cover > 0.5
    if upright:
        rgb, body = np.ascontiguousarray(rgb.transpose(1, 0, 2)), np.ascontiguousarray(body.T)
    return Scene(
        kind="rope",
        name="braided cable" if braided else "rope",
        expect="even strands",
        rgb=np.clip(rgb, 0, 1),
        defects={"scratch": 0.6, "hole": 0.6, "stain": 1.2, "missing part": 0.8, "fray": 2, "distortion": 1.0,
                 "colour fault": 0.6, "contamination": 0.8, "inclusion": 0.5},
        under=under,
        angle=np.pi / 2 if upright else 0.0,
        body=body,
        parts={"rope": body},
    )  # fmt: skip


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    fill = tuple(int(part) for part in np.clip(colour * 255, 0, 255))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _packed(count: int, radius: float) -> tuple[list[tuple[float, float]], float]:
    """About `count` close-packed places within a circle, and half the gap between neighbours."""
    gap = radius * 1.8 / np.sqrt(count)
    reach = int(radius / gap) + 2
    spots = [(gap * (i + j / 2), gap * j * 0.866) for i in range(-2 * reach, 2 * reach) for j in range(-reach, reach)]
    return [(x, y) for x, y in spots if np.hypot(x, y) < radius - gap * 0.45], gap / 2


def cable_end(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A cable cut across: a jacket, one to five insulated cores, each a bundle of round strands of metal."""
    back, under = background(rng, height, width)
    picture = Image.fromarray((np.clip(back, 0, 1) * 255).astype(np.uint8)).resize(
        (2 * width, 2 * height), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(picture)
    outer = min(height, width) * float(rng.uniform(0.6, 0.95))
    cx, cy = width * float(rng.uniform(0.9, 1.1)), height * float(rng.uniform(0.9, 1.1))
    cores = int(rng.choice([1, 2, 3, 3, 4, 5]))
    jacket, metal = pick(rng, "vivid", "dark", "pale", "grey"), pick(rng, "brass", "metal")
    _disc(draw, cx, cy, outer, jacket)
    inner = outer * float(rng.uniform(0.8, 0.93))
    _disc(draw, cx, cy, inner, pick(rng, "pale", "dark", "grey"))
    share = 1.0 if cores == 1 else 1 / (1 + 1 / np.sin(np.pi / cores))
    core, turn = inner * share * 0.96, float(rng.uniform(0, 2 * np.pi))
    strands, half = _packed(int(np.exp(rng.uniform(np.log(7), np.log(45)))), core * float(rng.uniform(0.55, 0.8)))
    for at in range(cores):
        angle, far = turn + 2 * np.pi * at / cores, 0.0 if cores == 1 else inner - core
        x, y = cx + far * float(np.cos(angle)), cy + far * float(np.sin(angle))
        _disc(draw, x, y, core, pick(rng, "vivid", "vivid", "earth", "pale"))
        hull = half + max(float(np.hypot(*spot)) for spot in strands)
        _disc(draw, x, y, hull, shade(metal, 0.25))
        c, s = np.cos(at + turn), np.sin(at + turn)
        for u, v in strands:
            jitter = rng.normal(0, half * 0.12, 2)
            place = x + c * u - s * v + jitter[0], y + s * u + c * v + jitter[1]
            _disc(draw, *place, half * 0.95, shade(metal, float(rng.uniform(0.75, 1.25))))
    rgb = np.asarray(picture.reduce(2), np.float32) * np.float32(1 / 255)
    tone = np.float32(rng.uniform(0.01, 0.06)) * (white(rng, height, width) + smooth(rng, height, width, 2, 12))
    far_y = np.arange(height, dtype=np.float32)[:, None] - np.float32(cy / 2)
    far_x = np.arange(width, dtype=np.float32)[None] - np.float32(cx / 2)
    body = far_y * far_y + far_x * far_x < (outer / 2) ** 2
    return Scene(
        kind="cable",
        name="cable cross-section",
        expect="round, evenly placed cores",
        rgb=times(rgb, 1 + tone),
        defects={"scratch": 1, "crack": 0.8, "hole": 1.2, "stain": 1, "missing part": 1.2, "gouge": 0.8,
                 "colour fault": 0.8, "contamination": 0.8, "chip": 0.6},
        under=under,
        body=body,
        parts={"cable": body},
    )  # fmt: skip
