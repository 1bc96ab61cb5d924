"""Things that are put together: populated boards, and panels with screws and seams."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from agvas_train.data.synth.circuit import layout
from agvas_train.data.synth.colours import Colour, over, pick, shade, times
from agvas_train.data.synth.fields import Field, fractal, smooth, white
from agvas_train.data.synth.printed import write_text
from agvas_train.data.synth.relief import slope
from agvas_train.data.synth.scene import Scene

Box = tuple[int, int, int, int]


def _ink(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (np.clip(colour, 0, 1) * 255).astype(int).tolist()
    return red, green, blue


def _field(image: Image.Image) -> Field:
    return np.asarray(image, np.float32) * np.float32(1 / 255)


def _two_ended(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> Box:
    """A resistor or capacitor with two shiny ends, in solder."""
    flat = rng.random() < 0.5
    long, short = size * float(rng.uniform(0.8, 1.2)), size * float(rng.uniform(0.4, 0.6))
    w, h = (long, short) if flat else (short, long)
    end = _ink(pick(rng, "metal", "pale"))
    draw.rectangle((x, y, x + w, y + h), end)
    inset = long * 0.25
    inner = (x + inset, y, x + w - inset, y + h) if flat else (x, y + inset, x + w, y + h - inset)
    draw.rectangle(inner, _ink(pick(rng, "dark", "dark", "earth", "vivid")))
    return int(x) - 2, int(y) - 2, int(x + w) + 3, int(y + h) + 3


def _chip(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> Box:
    """A chip with pins at two or four sides and a marking."""
    w, h = size * float(rng.uniform(1.5, 4)), size * float(rng.uniform(1.5, 4))
    step, pin, metal = max(size * 0.35, 3.0), size * 0.4, _ink(pick(rng, "metal", "pale"))
    for at in np.arange(step / 2, w - step / 4, step).tolist():
        draw.rectangle((x + at, y - pin, x + at + step / 2, y + h + pin), metal)
    if rng.random() < 0.5:
        for at in np.arange(step / 2, h - step / 4, step).tolist():
            draw.rectangle((x - pin, y + at, x + w + pin, y + at + step / 2), metal)
    body = pick(rng, "dark")
    draw.rectangle((x, y, x + w, y + h), _ink(body))
    draw.ellipse((x + 2, y + 2, x + 2 + size * 0.3, y + 2 + size * 0.3), _ink(shade(body + np.float32(0.1), 1.5)))
    return int(x - pin) - 1, int(y - pin) - 1, int(x + w + pin) + 2, int(y + h + pin) + 2


def _can(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, size: float) -> Box:
    """A round can or a connector's post seen from above."""
    wide = size * float(rng.uniform(0.8, 2))
    draw.ellipse((x, y, x + wide, y + wide), _ink(pick(rng, "metal", "vivid", "dark")))
    inner = wide * 0.12
    draw.ellipse((x + inner, y + inner, x + wide - inner, y + wide - inner), _ink(pick(rng, "metal", "grey", "dark")))
    return int(x) - 1, int(y) - 1, int(x + wide) + 2, int(y + wide) + 2


def electronics(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A populated board: chips, small components, cans and their print over tracks that shine through."""
    cover, _, _ = layout(rng, height, width)
    ground = pick(rng, "board", "board", "dark", "vivid")
    board = over(ground, cover, shade(ground, float(rng.uniform(1.1, 1.6))))
    board = times(board, 1 + np.float32(0.02) * smooth(rng, height, width, 2))
    image = Image.fromarray((np.clip(board, 0, 1) * 255).astype(np.uint8))
    size = float(np.exp(rng.uniform(np.log(8), np.log(36))))
    print_, taken, elements = Image.new("L", (width, height), 0), np.zeros((height, width), np.bool_), []
    draw, mark = ImageDraw.Draw(image), ImageDraw.Draw(print_)
    for _ in range(int(min(2 + 0.25 * height * width / (size * size), 120))):
        x, y = float(rng.uniform(-size, width)), float(rng.uniform(-size, height))
        make = (_two_ended, _two_ended, _two_ended, _chip, _can)[int(rng.integers(5))]
        far = size * (4 if make is _chip else 2)
        room = np.s_[max(int(y - far / 4), 0) : int(y + far), max(int(x - far / 4), 0) : int(x + far)]
        if taken[room].any():
            continue
        taken[room] = True
        box = make(rng, draw, x, y, size)
        inside = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        if inside[2] - inside[0] > 3 and inside[3] - inside[1] > 3:
            elements.append(inside)
        if rng.random() < 0.4:
            write_text(rng, mark, x, y - 0.8 * size, max(int(size * 0.5), 6), int(rng.integers(1, 4)))
    rgb = over(_field(image), _field(print_) * ~taken, np.full(3, 0.9, np.float32))
    rgb = times(rgb, 1 + np.float32(0.3) * np.clip(slope(rng, _field(image.convert("L").filter(_SOFT))), -2, 2) * 0.3)
    return Scene(
        kind="electronics",
        name="populated board",
        expect="all components in their places",
        rgb=rgb,
        defects={"missing part": 2, "displaced part": 1.5, "burn": 0.8, "corrosion": 0.6, "scratch": 0.8, "stain": 0.6}
        | {"smear": 0.5, "colour fault": 0.4, "chip": 0.5, "crack": 0.4},
        under=ground,
        elements=elements,
        plain=board,
    )


_SOFT = ImageFilter.GaussianBlur(0.8)


def _screw(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, metal: Colour
) -> None:
    """A screw's head with its slot, cross or hexagon."""
    draw.ellipse((x - radius - 2, y - radius - 1, x + radius + 2, y + radius + 3), _ink(metal * 0.3))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), _ink(metal))
    dark, turn, form = _ink(metal * 0.35), float(rng.uniform(0, np.pi)), int(rng.integers(3))
    if form == 2:
        draw.regular_polygon((x, y, radius * 0.5), 6, rotation=float(rng.uniform(0, 60)), fill=dark)
        return
    for at in (turn, turn + np.pi / 2)[: form + 1]:
        a, b = radius * 0.7 * float(np.cos(at)), radius * 0.7 * float(np.sin(at))
        draw.line((x - a, y - b, x + a, y + b), dark, max(int(radius * 0.3), 1))


def panel(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A machine's cover or a casing: seams, screws, slots, a mark; they are no defects."""
    side, base = min(height, width), pick(rng, "metal", "grey", "pale", "dark", "vivid")
    face = np.float32(rng.uniform(0.004, 0.05)) * smooth(rng, height, width, float(rng.uniform(1, 5)))
    face = face + np.float32(rng.uniform(0, 0.05)) * fractal(rng, height, width, side / 3, 2)
    image = Image.fromarray((np.clip(times(base, 1 + face), 0, 1) * 255).astype(np.uint8))
    draw, elements = ImageDraw.Draw(image), []
    for _ in range(int(rng.integers(0, 4))):
        at, wide, flat = float(rng.uniform(0.1, 0.9)), int(rng.integers(1, 5)), rng.random() < 0.5
        line = (0, at * height, width, at * height) if flat else (at * width, 0, at * width, height)
        lit = tuple(value + wide / 2 + 1 for value in line)
        draw.line(lit, _ink(shade(base, 1.35)), 2)
        draw.line(line, _ink(shade(base, 0.35)), wide)
    left, top = side * float(rng.uniform(0.05, 0.3)), side * float(rng.uniform(0.05, 0.3))
    for _ in range(int(rng.integers(0, 3))):
        x, y = float(rng.uniform(0.1, 0.7) * width), float(rng.uniform(0.1, 0.7) * height)
        w, h, gap = side * float(rng.uniform(0.1, 0.4)), side * float(rng.uniform(0.01, 0.04)), float(rng.uniform(2, 4))
        for at in range(int(rng.integers(1, 8))):
            draw.rounded_rectangle((x, y + at * h * gap, x + w, y + h * (at * gap + 1)), h / 2, _ink(shade(base, 0.25)))
    if rng.random() < 0.5:
        ink = _ink(pick(rng, "dark", "pale", "vivid"))
        layer = Image.new("L", (width, height), 0)
        x, y = float(rng.uniform(0.1, 0.6) * width), float(rng.uniform(0.1, 0.8) * height)
        write_text(rng, ImageDraw.Draw(layer), x, y, int(rng.integers(10, 36)), int(rng.integers(2, 7)))
        image.paste(ink, (0, 0, width, height), layer)
    plain = _field(image)
    metal, radius = pick(rng, "metal", "grey", "brass", "dark"), side * float(rng.uniform(0.02, 0.06))
    for x in (left, width - left):
        for y in np.linspace(top, height - top, int(rng.choice([2, 2, 3, 5]))).tolist():
            _screw(rng, draw, x, y, radius, metal)
            far = radius + 4
            box = max(int(x - far), 0), max(int(y - far), 0), min(int(x + far), width), min(int(y + far), height)
            if box[2] - box[0] > 3 and box[3] - box[1] > 3:
                elements.append(box)
    return Scene(
        kind="panel",
        name=("metal panel", "machine cover", "casing")[int(rng.integers(3))],
        expect="clean faces, even seams and all screws",
        rgb=times(_field(image), 1 + np.float32(0.008) * white(rng, height, width)),
        defects={"missing part": 1, "scratch": 2, "gouge": 1, "corrosion": 0.8, "stain": 1, "crack": 0.6, "smear": 0.8}
        | {"colour fault": 0.6, "wear": 0.5, "hole": 0.5, "spalling": 0.6},
        under=shade(base, 0.3),
        elements=elements,
        plain=plain,
    )
