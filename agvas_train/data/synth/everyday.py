"""Everyday things: packs of equal pieces, and biscuits."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from agvas_train.data.synth.colours import hsv, over, pick, shade, times
from agvas_train.data.synth.fields import Field, fractal, ramp, smooth
from agvas_train.data.synth.parts import background
from agvas_train.data.synth.relief import slope
from agvas_train.data.synth.scene import Scene


@lru_cache(maxsize=4)
def _unit(side: int) -> tuple[Field, Field]:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    return y, x


def _piece(rng: np.random.Generator, side: int) -> tuple[Field, Field]:
    """One piece of a pack, lit like all the others: RGB [side, side, 3] and its cover."""
    y, x = _unit(side)
    boxy = float(rng.choice([2.0, 2.0, 4.0, 8.0]))
    far = (np.abs(x) ** boxy + np.abs(y) ** boxy) ** np.float32(1 / boxy)
    outer, inner = float(rng.uniform(0.75, 0.95)), float(rng.uniform(0.3, 0.7))
    cover = ramp(-far, -outer, -outer + 0.06)
    rgb = times(pick(rng, "vivid", "pale", "metal", "dark", "grey"), np.ones_like(far))
    dome = np.sqrt(np.clip(1 - (far / outer) ** 2, 0, 1))
    light = 0.7 + 0.4 * dome + 0.3 * (x * np.cos(1.0) + y * np.sin(-1.0)) * float(rng.uniform(-1, 1))
    rgb = times(rgb, light.astype(np.float32))
    if rng.random() < 0.7:
        rgb = over(rgb, ramp(-far, -inner, -inner + 0.08), times(pick(rng, "vivid", "pale", "metal", "dark"), light))
    glint = np.exp(-(((x + 0.35) / 0.18) ** 2) - ((y + 0.35) / 0.12) ** 2) * float(
        rng.choice([0.0, rng.uniform(0.2, 0.8)])
    )
    return np.clip(rgb + glint[..., None].astype(np.float32), 0, 1), cover


def pack(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Blister packs, keypads, crates: equal pieces, each of several parts, in rows."""
    pitch = int(np.exp(rng.uniform(np.log(24), np.log(100))))
    rgb, cover = _piece(rng, pitch)
    rows, columns = height // pitch + 2, width // pitch + 2
    top, left = int(rng.integers(pitch)), int(rng.integers(pitch))
    window = np.s_[top : top + height, left : left + width]
    tone = np.exp(rng.normal(0, float(rng.choice([0.0, 0.05])), (rows, columns))).astype(np.float32)
    tones = np.kron(tone, np.ones((pitch, pitch), np.float32))[window]
    back, under = background(rng, height, width)
    face = times(np.tile(rgb, (rows, columns, 1))[window], tones)
    elements = [
        (max(x, 0), max(y, 0), min(x + pitch, width), min(y + pitch, height))
        for y in range(-top, height, pitch)
        for x in range(-left, width, pitch)
        if x + pitch * 0.6 > 0 and y + pitch * 0.6 > 0
    ]
    covered = np.tile(cover, (rows, columns))[window]
    return Scene(
        kind="pack",
        name=("blister pack", "keypad", "crate of caps")[int(rng.integers(3))],
        expect="equal pieces in every place",
        rgb=times(over(back, covered, face), 1 + np.float32(0.02) * smooth(rng, height, width, 2)),
        defects={"missing part": 2, "displaced part": 1, "colour fault": 1.2, "crack": 0.8, "stain": 0.8, "chip": 0.8}
        | {"scratch": 0.6, "hole": 0.5, "smear": 0.5},
        under=under,
        elements=[box for box in elements if box[2] - box[0] > 8 and box[3] - box[1] > 8],
        plain=back,
    )


def biscuit(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Baked goods on a plain ground: a crust, browner at the rim, with docking holes or chips."""
    side = min(height, width) / 2
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(height * rng.uniform(0.44, 0.56))) / side
    x = (np.arange(width, dtype=np.float32)[None] - np.float32(width * rng.uniform(0.44, 0.56))) / side
    boxy, edge = float(rng.choice([2.0, 2.0, 6.0])), float(rng.uniform(0.6, 1.1))
    far = (np.abs(x) ** boxy + np.abs(y) ** boxy) ** np.float32(1 / boxy)
    far = far + np.float32(rng.uniform(0, 0.04)) * smooth(rng, height, width, side / 4)
    base = hsv(float(rng.uniform(0.05, 0.12)), float(rng.uniform(0.35, 0.75)), float(rng.uniform(0.35, 0.9)))
    crust = fractal(rng, height, width, float(rng.uniform(4, 24)), 4, 0.7)
    field = 1 + np.float32(rng.uniform(0.02, 0.1)) * np.clip(slope(rng, crust), -3, 3)
    field -= np.float32(rng.uniform(0, 0.5)) * ramp(far, edge - 0.4, edge)
    rgb = times(base, field)
    if rng.random() < 0.6:
        image = Image.new("L", (width, height), 0)
        draw, step, hole = (
            ImageDraw.Draw(image),
            side * float(rng.uniform(0.15, 0.4)),
            side * float(rng.uniform(0.01, 0.03)),
        )
        for row in np.arange(0, height, step).tolist():
            for column in np.arange(0, width, step).tolist():
                draw.ellipse((column - hole, row - hole, column + hole, row + hole), 255)
        rgb = over(rgb, np.asarray(image, np.float32) * np.float32(1 / 255), shade(base, 0.35))
    cover = ramp(-far, -edge, -edge + 0.015)
    back, under = background(rng, height, width)
    return Scene(
        kind="biscuit",
        name=("biscuit", "cracker", "bread")[int(rng.integers(3))],
        expect="an even crust and a whole rim",
        rgb=over(back, cover, rgb),
        defects={"chip": 2, "crack": 1.5, "hole": 0.8, "burn": 1.2, "stain": 0.8, "colour fault": 0.8, "spalling": 0.8}
        | {"foreign patch": 1, "missing part": 0.5},
        under=under,
        body=cover > 0.5,
    )
