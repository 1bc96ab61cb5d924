"""Turned faces, round bars and bottles, ribs: metal and plastic whose shape shades it."""

import numpy as np
from PIL import Image, ImageDraw

from agvas_train.data.synth.colours import blend, over, pick, shade, times
from agvas_train.data.synth.fields import Field, fractal, ramp, smooth, turned, white
from agvas_train.data.synth.parts import background
from agvas_train.data.synth.printed import write_text
from agvas_train.data.synth.scene import Scene

_DEFECTS = {
    "corrosion": 0.7,
    "scuff": 0.7,
    "gouge": 0.8,
    "spalling": 0.4,
    "scratch": 2.0,
    "crack": 1.0,
    "hole": 1.0,
    "stain": 1.0,
    "scale": 0.6,
    "inclusion": 0.5,
    "colour fault": 0.4,
    "missing part": 0.3,
    "uneven": 0.3,
    "chip": 0.8,
}


def _along(line: Field, at: Field) -> Field:
    """The values of a line [N] at places [H,W], between its ends."""
    return line[np.clip(at, 0, len(line) - 1).astype(np.int32)]


def turned_face(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Rings of a lathe around a centre in or beside the picture, with the two bright fans of turned metal."""
    side = min(height, width)
    outside = rng.random() < 0.4
    cx, cy = (float(rng.uniform(-0.8, 1.8) if outside else rng.uniform(0.4, 0.6)) * part for part in (width, height))
    y, x = np.arange(height, dtype=np.float32)[:, None] - np.float32(cy), np.arange(width, dtype=np.float32)[None]
    x = x - np.float32(cx)
    radius = np.sqrt(x * x + y * y)
    reach = int(radius.max() * 2) + 3
    fine, wide = (smooth(rng, 1, reach, 1.0, float(rng.uniform(*cell)))[0] for cell in ((1.5, 8), (20, 90)))
    rings = np.float32(rng.uniform(0.02, 0.12)) * fine + np.float32(rng.uniform(0.0, 0.12)) * wide
    field = _along(rings, radius * 2)
    fan = np.cos(2 * (np.arctan2(y, x) - np.float32(rng.uniform(0, np.pi))))
    field = field + np.float32(rng.uniform(0.0, 0.5)) * np.maximum(fan, 0) ** int(rng.choice([1, 2, 4, 8]))
    field += np.float32(rng.uniform(0.005, 0.03)) * white(rng, height, width)
    base = pick(rng, "metal", "metal", "brass", "grey")
    rgb, body = times(base, field + np.float32(0.85)), None
    back, under = background(rng, height, width)
    if not outside and rng.random() < 0.7:
        outer, bore = side * float(rng.uniform(0.36, 0.75)), side * float(rng.choice([0.0, rng.uniform(0.04, 0.25)]))
        cover = ramp(-radius, -outer - 0.5, -outer + 0.5) * ramp(radius, bore - 0.5, bore + 0.5)
        for step in rng.uniform(bore, outer, int(rng.integers(0, 4))).tolist():
            rgb = times(rgb, 1 + np.float32(rng.uniform(-0.4, 0.4)) * ramp(-np.abs(radius - np.float32(step)), -2.5, 0))
        rgb, body = over(back, cover, rgb), cover > 0.5
    return Scene(
        kind="turned",
        name=("turned metal", "machined face", "metal disc")[int(rng.integers(3))],
        expect="fine, even rings",
        rgb=rgb,
        defects=_DEFECTS,
        under=under if body is not None else shade(base, 0.2),
        body=body,
    )


def _profile(rng: np.random.Generator, across: Field) -> Field:
    """Brightness across a round bar, from -1 at one edge to 1 at the other: soft light and narrow reflections."""
    lamp = float(rng.uniform(-0.7, 0.7))
    tilt = np.sqrt(np.clip(1 - across * across, 0, 1))
    light = np.clip(tilt * np.float32(np.cos(lamp)) + across * np.float32(np.sin(lamp)), 0, 1)
    light = np.float32(rng.uniform(0.15, 0.5)) + np.float32(rng.uniform(0.4, 0.9)) * light
    for _ in range(int(rng.integers(0, 4))):
        at, thick = np.float32(rng.uniform(-0.85, 0.85)), np.float32(rng.uniform(0.02, 0.15))
        light = light + np.float32(rng.uniform(0.1, 0.7)) * np.exp(-(((across - at) / thick) ** 2))
    return light


def _ribs(rng: np.random.Generator, length: int, pitch: float) -> Field:
    """Brightness along ribs or threads of a pitch in pixels [length], mean about 1."""
    phase = np.arange(length, dtype=np.float32) / np.float32(pitch) + np.float32(rng.random())
    wave = np.sin(2 * np.pi * phase)
    form = int(rng.integers(3))
    if form == 1:
        wave = np.tanh(np.float32(rng.uniform(2, 6)) * wave)
    if form == 2:
        wave = 2 * (phase % 1) - 1
    return 1 + np.float32(rng.uniform(0.1, 0.6)) * wave.astype(np.float32)


def _label(rng: np.random.Generator, rgb: Field) -> Field:
    """The picture with a band of print around the bar."""
    height, width = rgb.shape[:2]
    image = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        x, y = float(rng.uniform(0, 0.7) * width), float(rng.uniform(0.1, 0.7) * height)
        write_text(rng, draw, x, y, int(rng.integers(8, max(height // 5, 10))), int(rng.integers(2, 8)))
    return over(rgb, np.asarray(image, np.float32) * np.float32(0.9 / 255), pick(rng, "dark", "vivid", "pale"))


def bar(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A round bar, pipe, bottle or threaded rod across the picture, smooth, ribbed or with a label."""
    upright = rng.random() < 0.5
    rows, columns = (width, height) if upright else (height, width)
    radius = rows * float(rng.uniform(0.15, 0.75))
    middle = rows * float(rng.uniform(0.4, 0.6))
    lean = np.float32(rng.choice([0.0, rng.normal(0, 0.08)]))
    x = np.arange(columns, dtype=np.float32)[None]
    y = np.arange(rows, dtype=np.float32)[:, None] - np.float32(middle) - lean * (x - columns / 2)
    across = y / np.float32(radius)
    face = _profile(rng, np.clip(across, -1, 1))
    grain = smooth(rng, rows, columns, *((1.5, 40.0) if rng.random() < 0.5 else (40.0, 1.5)))
    face = face * (1 + np.float32(np.exp(rng.uniform(np.log(0.004), np.log(0.06)))) * grain)
    threaded = rng.random() < 0.3
    if threaded:
        slant = np.float32(rng.uniform(-0.15, 0.15) * radius) * np.arcsin(np.clip(across, -1, 1))
        ribs = _ribs(rng, 4 * columns, float(np.exp(rng.uniform(np.log(4), np.log(24)))))
        face = face * _along(ribs, x + slant + columns)
    base = pick(rng, "metal", "grey", "brass", "vivid", "pale", "dark", "earth")
    rgb = times(base, face)
    if not threaded and rng.random() < 0.3:
        rgb = _label(rng, rgb)
    back, under = background(rng, rows, columns)
    cover = ramp(-np.abs(across), -1 - 0.5 / radius, -1 + 0.5 / radius)
    rgb, body = over(back, cover, rgb), cover > 0.5
    if upright:
        rgb, body = np.ascontiguousarray(rgb.transpose(1, 0, 2)), np.ascontiguousarray(body.T)
    return Scene(
        kind="bar",
        name="threaded rod" if threaded else ("metal bar", "pipe", "bottle", "cable")[int(rng.integers(4))],
        expect="even threads" if threaded else "a smooth round surface",
        rgb=np.clip(rgb, 0, 1),
        defects=_DEFECTS,
        under=under,
        angle=np.pi / 2 if upright else 0.0,
        body=body,
        parts={"bar": body},
    )


def ribbed(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Parallel ribs, fins or steps, or two sets of them crossing: heat sinks, corrugated sheet, knurls."""
    pitch = float(np.exp(rng.uniform(np.log(5), np.log(50))))
    sway = np.float32(rng.choice([0.0, rng.uniform(0, 0.06)]))
    crossed = rng.random() < 0.3

    def make(rows: int, columns: int) -> Field:
        ribs = _ribs(rng, columns * 2 + 80, pitch)
        at = np.arange(columns, dtype=np.float32)[None] + 40 + sway * pitch * smooth(rng, rows, columns, pitch * 6)
        return np.broadcast_to(_along(ribs, at), (rows, columns))

    field, angle = turned(rng, height, width, make, oblique=0.5)
    if crossed:
        field = field * turned(rng, height, width, make, oblique=0.5)[0]
    rough = float(np.exp(rng.uniform(np.log(0.005), np.log(0.06))))
    field = field + np.float32(rough) * (white(rng, height, width) + fractal(rng, height, width, height / 4, 2))
    base = pick(rng, "metal", "grey", "dark", "vivid", "pale", "earth")
    return Scene(
        kind="ribbed",
        name=("ribbed plastic", "corrugated sheet", "ribbed metal")[int(rng.integers(3))],
        expect="even, parallel ribs",
        rgb=blend(field * np.float32(0.5), np.zeros(3, np.float32), np.clip(base * 2, 0, 1.6)),
        defects={key: weight for key, weight in _DEFECTS.items() if key != "chip"} | {"distortion": 1.0},
        under=shade(base, float(rng.uniform(0.05, 0.4))),
        angle=angle + np.pi / 2,
    )
