"""Printed surfaces: stripes, dots, checks, labels with text and bar codes."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agvas_train.data.synth.colours import over, pick, shade, times
from agvas_train.data.synth.fields import smooth, white
from agvas_train.data.synth.scene import Scene

_SIGNS = "ABCDEFGHKLMNPRSTUVXYZ0123456789-"

Box = tuple[int, int, int, int]


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def write_text(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, size: int, count: int
) -> list[Box]:
    """A line of signs at (x, y), `size` pixels high; the boxes of the signs."""
    font, boxes = _font(max(size, 6)), []
    for _ in range(count):
        sign = _SIGNS[int(rng.integers(len(_SIGNS)))]
        draw.text((x, y), sign, 255, font=font)
        box = draw.textbbox((x, y), sign, font=font)
        boxes.append((int(box[0]) - 1, int(box[1]) - 1, int(box[2]) + 2, int(box[3]) + 2))
        x = box[2] + size * 0.12
    return boxes


def _bars(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: int, y: int, width: int, height: int) -> None:
    at = 0
    while at < width:
        bar = int(rng.integers(1, 5))
        draw.rectangle((x + at, y, x + at + bar - 1, y + height), 255)
        at += bar + int(rng.integers(1, 5))


def _label(rng: np.random.Generator, draw: ImageDraw.ImageDraw, height: int, width: int) -> list[Box]:
    elements: list[Box] = []
    y = int(rng.integers(2, max(height // 6, 3)))
    while y < height - 10:
        size = int(rng.integers(9, max(min(height // 4, 48), 12)))
        x = int(rng.integers(2, max(width // 4, 3)))
        if rng.random() < 0.2:
            _bars(rng, draw, x, y, int(width * rng.uniform(0.3, 0.8)), size)
        else:
            elements += write_text(rng, draw, x, y, size, int(rng.integers(2, 14)))
        if rng.random() < 0.2:
            draw.line((x, y + size * 1.35, width - x, y + size * 1.35), 255, int(rng.integers(1, 4)))
        y += int(size * rng.uniform(1.4, 2.2))
    return elements


def _marks(rng: np.random.Generator, draw: ImageDraw.ImageDraw, height: int, width: int) -> list[Box]:
    pitch, form = float(rng.uniform(10, 52)), int(rng.integers(4))
    radius, staggered, elements = pitch * float(rng.uniform(0.12, 0.4)), rng.random() < 0.5, []
    for row in range(-1, int(height / pitch) + 2):
        for column in range(-1, int(width / pitch) + 2):
            x, y = column * pitch + (pitch / 2 if staggered and row % 2 else 0), row * pitch
            box = (x - radius, y - radius, x + radius, y + radius)
            if form == 0:
                draw.ellipse(box, 255)
            elif form == 1:
                draw.rectangle(box, 255)
            elif form == 2:
                draw.ellipse(box, None, 255, max(int(radius / 3), 1))
            else:
                draw.polygon([(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)], 255)
            if 0 < x < width and 0 < y < height:
                elements.append((int(x - radius) - 1, int(y - radius) - 1, int(x + radius) + 2, int(y + radius) + 2))
    return elements


def _stripes(rng: np.random.Generator, draw: ImageDraw.ImageDraw, height: int, width: int) -> list[Box]:
    pitch, both = float(rng.uniform(6, 40)), rng.random() < 0.4
    thick = max(int(pitch * rng.uniform(0.2, 0.6)), 1)
    for at in range(int(max(height, width) / pitch) + 2):
        draw.line((at * pitch, 0, at * pitch, height), 255, thick)
        if both:
            draw.line((0, at * pitch, width, at * pitch), 255, thick)
    return []


def printed(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Ink on paper, plastic or cloth."""
    image = Image.new("L", (width, height), 0)
    form = int(rng.choice(3, p=(0.4, 0.35, 0.25)))
    elements = (_label, _marks, _stripes)[form](rng, ImageDraw.Draw(image), height, width)
    angle = float(rng.choice([0.0, rng.normal(0, 3)])) if form == 0 else 0.0
    ink = np.asarray(image, np.float32) * np.float32(1 / 255)
    if form and rng.random() < 0.5:
        ink = ink * (1 - np.float32(0.1) * np.abs(smooth(rng, height, width, 3)))
    paper = pick(rng, "pale", "pale", "vivid", "grey")
    colour = pick(rng, "dark", "vivid", "earth") if paper.mean() > 0.5 else pick(rng, "pale", "vivid", "dark")
    texture = np.float32(rng.uniform(0.004, 0.03)) * (
        smooth(rng, height, width, float(rng.uniform(1.5, 5))) + white(rng, height, width)
    )
    base = times(paper, texture + 1)
    inside = [(max(a, 0), max(b, 0), min(c, width), min(d, height)) for a, b, c, d in elements]
    return Scene(
        kind="printed",
        name=("printed label", "patterned print", "striped print")[form],
        expect=("clean, complete print", "a regular printed pattern", "even stripes")[form],
        rgb=over(base, ink, colour),
        defects={
            "missing part": 1.8 if inside else 0.6,
            "displaced part": 1,
            "crease": 1,
            "bubble": 0.8,
            "scuff": 0.5,
            "smear": 0.6,
            "stain": 1,
            "scratch": 1,
            "contamination": 1,
            "colour fault": 1,
            "distortion": 0.6,
            "hole": 0.5,
            "uneven": 0.2,
        },
        under=shade(paper, 0.4),
        angle=angle,
        parts={"print": ink > 0.5},
        elements=[box for box in inside if box[2] - box[0] > 3 and box[3] - box[1] > 3],
        plain=base,
    )
