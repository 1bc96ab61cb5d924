"""Parts on a background: discs, rings, plates, gears, nuts, capsules, bottle mouths; trays of small equal parts."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from agvas_train.data.synth import metal, organic, textile
from agvas_train.data.synth.colours import Colour, over, pick, shade, times
from agvas_train.data.synth.fields import Field, resize, smooth, white
from agvas_train.data.synth.part_shapes import draw_outline
from agvas_train.data.synth.printed import write_text
from agvas_train.data.synth.scene import Scene

_ON_PARTS = {
    "corrosion": 0.5,
    "scuff": 0.8,
    "bubble": 0.5,
    "gouge": 0.6,
    "spalling": 0.6,
    "crease": 0.2,
    "chip": 2.0,
    "scratch": 1.0,
    "crack": 1.0,
    "hole": 0.8,
    "dent": 0.6,
    "stain": 0.8,
    "contamination": 0.7,
    "missing part": 0.6,
    "colour fault": 0.5,
    "fray": 0.8,
    "uneven": 0.4,
}


_MATERIALS = {"strip": "steel", "board": "wooden", "veneer": "wooden", "wood": "wooden"}


def background(rng: np.random.Generator, height: int, width: int) -> tuple[Field, Colour]:
    """What lies behind a part: plain, or softly blotched; and its colour."""
    colour = pick(rng, "dark", "dark", "pale", "grey", "vivid")
    if rng.random() < 0.4:
        colour = np.full(3, float(rng.choice([0.02, 0.95])), np.float32)
    field = np.float32(rng.uniform(0.0, 0.06)) * smooth(rng, height, width, float(rng.uniform(2, 40)))
    return times(colour, field + np.float32(0.01) * white(rng, height, width) + 1), colour


def _bevel(rng: np.random.Generator, cover: Field, round_px: float) -> Field:
    """Shading of rounded edges [H,W], about -0.5 to 0.5, worked out at a third of the size."""
    height, width = cover.shape
    small = (
        Image.fromarray((cover * 255).astype(np.uint8))
        .reduce(3)
        .filter(ImageFilter.GaussianBlur(max(round_px / 3, 0.8)))
    )
    gy, gx = np.gradient(np.asarray(small, np.float32) * np.float32(round_px / 3 / 255))
    turn = rng.uniform(0, 2 * np.pi)
    return resize(
        (np.float32(np.cos(turn)) * gx + np.float32(np.sin(turn)) * gy).astype(np.float32),
        height,
        width,
        Image.Resampling.BILINEAR,
    )


def _fill(rng: np.random.Generator, height: int, width: int) -> Scene:
    makers = (metal.brushed, metal.rolled, organic.plain, organic.leather, organic.wood, textile.felt)
    return makers[int(rng.choice(len(makers), p=(0.34, 0.24, 0.27, 0.04, 0.06, 0.05)))](rng, height, width)


def _mark(rng: np.random.Generator, height: int, width: int, cover: Field) -> Field:
    """A printed mark on the part [H,W] in [0,1]."""
    image = Image.new("L", (width, height), 0)
    size = int(rng.integers(9, max(int(min(height, width) * 0.16), 11)))
    write_text(
        rng,
        ImageDraw.Draw(image),
        width * float(rng.uniform(0.25, 0.5)),
        height * float(rng.uniform(0.3, 0.6)),
        size,
        int(rng.integers(1, 7)),
    )
    return np.asarray(image, np.float32) * np.float32(1 / 255) * cover


def part(rng: np.random.Generator, height: int, width: int) -> Scene:
    """One part with its own surface, rounded edges, a shadow, regular holes and sometimes a printed mark."""
    cover, holes, name = draw_outline(rng, height, width)
    fill = _fill(rng, height, width)
    back, colour = background(rng, height, width)
    if rng.random() < 0.4:
        off = int(rng.integers(1, 9))
        soft = Image.fromarray((cover * 255).astype(np.uint8)).reduce(4).filter(ImageFilter.GaussianBlur(1.5))
        shadow = resize(np.asarray(soft, np.float32) / np.float32(255), height, width, Image.Resampling.BILINEAR)
        back = times(back, 1 - np.float32(rng.uniform(0.2, 0.6)) * np.roll(shadow, (off, off // 2), (0, 1)))
    face = fill.rgb
    if rng.random() < 0.8:
        face = times(
            face,
            1
            + np.float32(rng.uniform(0.3, 1.2)) * _bevel(rng, cover, float(rng.uniform(2, 0.12 * min(height, width)))),
        )
    parts, elements = {"part": cover > 0.5, "background": cover <= 0.5}, []
    unmarked = face
    if rng.random() < 0.3:
        ink = _mark(rng, height, width, cover)
        face = over(face, ink * np.float32(0.85), pick(rng, "dark", "pale", "vivid"))
        parts["printed mark"] = ink > 0.4
        rows, columns = (np.flatnonzero(parts["printed mark"].any(axis=axis)) for axis in (1, 0))
        if len(rows):
            elements = [(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)]
    word = fill.name.split()[-1]
    material = "" if name == "bottle mouth" else _MATERIALS.get(word, word) + " "
    bare = over(back, cover, unmarked)
    return replace(
        fill,
        kind="part",
        name=material + name,
        expect=f"clean edges{', complete holes' if holes else ''} and a uniform surface",
        rgb=over(back, cover, face),
        defects=_ON_PARTS if elements else {key: _ON_PARTS[key] for key in _ON_PARTS if key != "missing part"},
        under=colour,
        body=parts["part"],
        parts=parts,
        elements=elements,
        plain=bare,
    )


def tray(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Many small equal parts in rows: pills, washers, caps, pins."""
    pitch = float(rng.uniform(22, 80))
    radius, aspect = pitch * float(rng.uniform(0.25, 0.45)), float(rng.choice([1.0, 1.0, 0.6]))
    hole = radius * float(rng.uniform(0.3, 0.6)) if rng.random() < 0.35 else 0.0
    square, loose = rng.random() < 0.2, float(rng.choice([0.0, 0.03, 0.06]))
    image = Image.new("L", (width * 2, height * 2), 0)
    draw, elements = ImageDraw.Draw(image), []
    off_x, off_y = rng.uniform(0, pitch), rng.uniform(0, pitch)
    for row in range(-1, int(height / pitch) + 2):
        for column in range(-1, int(width / pitch) + 2):
            x, y = (
                float(v)
                for v in np.array([column * pitch + off_x, row * pitch + off_y]) + rng.normal(0, loose * pitch, 2)
            )
            box = [2 * (x - radius), 2 * (y - radius * aspect), 2 * (x + radius), 2 * (y + radius * aspect)]
            draw.rounded_rectangle(box, radius / 2, 255) if square else draw.ellipse(box, 255)
            if hole:
                draw.ellipse([2 * (x - hole), 2 * (y - hole * aspect), 2 * (x + hole), 2 * (y + hole * aspect)], 0)
            if 0 < x < width and 0 < y < height:
                far = radius + 3
                elements.append(
                    (
                        max(int(x - far), 0),
                        max(int(y - far), 0),
                        min(int(x + far) + 2, width),
                        min(int(y + far) + 2, height),
                    )
                )
    cover = np.asarray(image.reduce(2), np.float32) * np.float32(1 / 255)
    back, colour = background(rng, height, width)
    base = pick(rng, "pale", "vivid", "metal", "brass", "grey")
    while abs(float(base.mean() - colour.mean())) < 0.15:
        base = pick(rng, "pale", "vivid", "metal", "brass", "grey")
    face = times(
        base, 1 + np.float32(rng.uniform(0.5, 1.5)) * _bevel(rng, cover, radius * float(rng.uniform(0.2, 0.6)))
    )
    face = times(face, 1 + np.float32(rng.uniform(0.005, 0.05)) * smooth(rng, height, width, 2))
    name = "washers" if hole else ("pins" if square else ("tablets", "caps", "rivets")[int(rng.integers(3))])
    return Scene(
        kind="parts",
        name=f"tray of {name}",
        expect="complete, equal parts in a regular pattern",
        rgb=over(back, cover, face),
        defects={
            "missing part": 1.5,
            "displaced part": 1,
            "colour fault": 1,
            "chip": 1.5,
            "crack": 0.8,
            "contamination": 0.8,
            "stain": 0.6,
            "hole": 0.5,
        },
        under=shade(colour, 1.0),
        body=cover > 0.5,
        parts={"parts": cover > 0.5, "background": cover <= 0.5},
        elements=elements,
        plain=back,
    )
