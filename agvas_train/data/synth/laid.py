"""Surfaces laid out in a regular pattern: tiles and bricks, perforated plates, wire mesh."""

import numpy as np
from PIL import Image, ImageDraw

from agvas_train.data.synth.colours import over, pick, shade, times
from agvas_train.data.synth.fields import Field, fractal, smooth, white
from agvas_train.data.synth.scene import Scene


def tiles(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Tiles or bricks with joints; each tile has its own tone."""
    brick = rng.random() < 0.4
    pitch_y = float(rng.uniform(18, 110))
    pitch_x = pitch_y * float(rng.uniform(1.6, 2.8) if brick else rng.uniform(0.8, 1.3))
    joint, off_y, off_x = float(rng.uniform(1.5, 6)), rng.uniform(0, pitch_y), rng.uniform(0, pitch_x)
    rows, columns = int(height / pitch_y) + 3, int(width / pitch_x) + 4
    image = Image.new("L", (width * 2, height * 2), 0)
    draw = ImageDraw.Draw(image)
    spread, elements = float(rng.uniform(0, 30)), []
    radius = int(rng.choice([0, 0, 2, 6]))
    for row in range(-1, rows):
        for column in range(-2, columns):
            x = column * pitch_x + off_x - pitch_x + (pitch_x / 2 if brick and row % 2 else 0)
            y = row * pitch_y + off_y - pitch_y
            box = (x + joint / 2, y + joint / 2, x + pitch_x - joint / 2, y + pitch_y - joint / 2)
            tone = int(np.clip(200 + rng.normal(0, 1) * spread, 120, 255))
            draw.rounded_rectangle([2 * part for part in box], radius, tone)
            inside = (
                max(int(box[0]), 0),
                max(int(box[1]), 0),
                min(int(box[2]) + 1, width),
                min(int(box[3]) + 1, height),
            )
            if inside[2] - inside[0] > 8 and inside[3] - inside[1] > 8:
                elements.append(inside)
    tone = np.asarray(image.reduce(2), np.float32) / np.float32(200)
    face = np.clip(tone * 2.5, 0, 1)
    base, grout = pick(rng, "stone", "earth", "pale", "vivid", "grey"), pick(rng, "stone", "grey", "dark")
    rough = float(rng.uniform(0.01, 0.08))
    texture = np.float32(rough) * (
        fractal(rng, height, width, float(rng.uniform(4, 30)), 3) + np.float32(0.3) * white(rng, height, width)
    )
    mortar = times(grout, 1 + np.float32(0.08) * white(rng, height, width))
    rgb = over(mortar, face, times(base, tone + texture))
    return Scene(
        kind="tiled",
        name="brick wall" if brick else "tiled wall",
        expect="a regular grid with even joints",
        rgb=rgb,
        defects={
            "crack": 2,
            "spalling": 1,
            "crazing": 0.8,
            "bubble": 0.4,
            "scuff": 0.5,
            "chip": 1.5,
            "stain": 1,
            "missing part": 0.8,
            "displaced part": 1,
            "colour fault": 1,
            "hole": 0.8,
            "scratch": 0.8,
            "contamination": 0.6,
        },
        under=shade(grout, 0.6),
        parts={"joints": face < 0.5},
        elements=elements,
        plain=mortar,
    )


def perforated(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A plate with a regular pattern of holes, round or square, in rows or staggered."""
    pitch = float(rng.uniform(12, 48))
    radius = pitch * float(rng.uniform(0.18, 0.4))
    staggered, square = rng.random() < 0.5, rng.random() < 0.3
    image = Image.new("L", (width * 2, height * 2), 0)
    draw = ImageDraw.Draw(image)
    off_y, off_x, elements = rng.uniform(0, pitch), rng.uniform(0, pitch), []
    for row in range(-1, int(height / pitch) + 2):
        for column in range(-1, int(width / pitch) + 2):
            x = column * pitch + off_x + (pitch / 2 if staggered and row % 2 else 0)
            y = row * pitch + off_y
            box = (2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius))
            draw.rectangle(box, 255) if square else draw.ellipse(box, 255)
            if radius < x < width - radius and radius < y < height - radius:
                reach = radius + 2
                elements.append((int(x - reach), int(y - reach), int(x + reach) + 1, int(y + reach) + 1))
    hole = np.asarray(image.reduce(2), np.float32) / np.float32(255)
    plate, under = pick(rng, "metal", "grey", "vivid", "pale"), pick(rng, "dark", "grey", "pale")
    while abs(float(plate.mean() - under.mean())) < 0.15:
        plate, under = pick(rng, "metal", "grey", "vivid", "pale"), pick(rng, "dark", "grey", "pale")
    field = np.float32(rng.uniform(0.005, 0.05)) * smooth(rng, height, width, 2) + np.float32(0.01) * white(
        rng, height, width
    )
    whole = times(plate, field + 1)
    return Scene(
        kind="perforated",
        name="perforated plate",
        expect="a regular pattern of holes",
        rgb=over(whole, hole, under),
        defects={
            "missing part": 2,
            "displaced part": 1,
            "scratch": 1,
            "stain": 0.8,
            "crack": 0.8,
            "contamination": 0.8,
            "distortion": 0.8,
            "colour fault": 0.4,
            "dent": 0.5,
        },
        under=under,
        parts={"holes": hole > 0.5},
        elements=[(max(a, 0), max(b, 0), min(c, width), min(d, height)) for a, b, c, d in elements],
        plain=whole,
    )


def mesh(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Crossing wires or bars over a background."""
    pitch = float(rng.uniform(10, 44))
    wire = pitch * float(rng.uniform(0.12, 0.4))
    tilt = float(rng.choice([0.0, rng.uniform(0.2, 1.2), np.pi / 4]))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    covers: list[Field] = []
    for along in (x * c + y * s, y * c - x * s):
        off = np.abs(along / np.float32(pitch) % 1 - np.float32(0.5)) * np.float32(pitch)
        covers.append(np.clip(np.float32(wire / 2) - off + np.float32(0.5), 0, 1) * (1 - off / np.float32(wire)))
    cover = np.broadcast_to(np.maximum(*covers), (height, width)).astype(np.float32)
    metal, ground = pick(rng, "metal", "grey", "dark", "vivid"), pick(rng, "pale", "dark", "grey", "earth")
    back = times(ground, 1 + np.float32(0.02) * smooth(rng, height, width, 3))
    rgb = over(back, np.clip(cover * 3, 0, 1), times(metal, np.float32(0.4) + np.float32(0.7) * cover))
    elements = []
    for _ in range(24):
        size = int(max(wire * rng.uniform(1.2, 3), 4))
        left, top = int(rng.integers(max(width - size, 1))), int(rng.integers(max(height - size, 1)))
        if cover[top : top + size, left : left + size].max() > 0.4:
            elements.append((left, top, min(left + size, width), min(top + size, height)))
    return Scene(
        kind="mesh",
        name="wire mesh",
        expect="a regular grid of wires",
        rgb=times(rgb, 1 + np.float32(0.02) * white(rng, height, width)),
        defects={
            "missing part": 2,
            "distortion": 1.5,
            "contamination": 1.2,
            "stain": 0.6,
            "displaced part": 0.6,
            "colour fault": 0.6,
        },
        under=ground,
        angle=tilt,
        parts={"wires": cover > 0.2},
        elements=elements,
        plain=back,
    )
