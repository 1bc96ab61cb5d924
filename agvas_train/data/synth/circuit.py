"""Printed circuit boards: tracks, pads, vias and copper areas; binarised scans or coloured photographs."""

from collections.abc import Callable
from copy import copy
from itertools import pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from agvas_train.data.synth.colours import Colour, over, pick, shade, times
from agvas_train.data.synth.fields import Field, smooth, white
from agvas_train.data.synth.printed import write_text
from agvas_train.data.synth.scene import Mask, Scene

Track = tuple[float, float, float, float, float]


class _Board:
    """Draws copper at twice the size, one figure after the other; remembers the straight pieces of its tracks."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.image = Image.new("L", (width * 2, height * 2), 0)
        self.draw = ImageDraw.Draw(self.image)
        self.taken = self.image.reduce(4)
        self.tracks: list[Track] = []
        self.drills: list[tuple[float, float, float]] = []
        self.pitch = float(np.exp(rng.uniform(np.log(9), np.log(48))))
        self.wide = self.pitch * float(rng.uniform(0.22, 0.6))

    def place(self, figure: Callable[["_Board"], None], tries: int = 3) -> None:
        """Draw a figure where it touches no other, or not at all."""
        for _ in range(tries):
            new = copy(self)
            new.image = Image.new("L", self.image.size, 0)
            new.draw, new.tracks, new.drills = ImageDraw.Draw(new.image), [], []
            figure(new)
            if ImageChops.multiply(self.taken, new.image.reduce(4)).getbbox() is None:
                self.image = ImageChops.lighter(self.image, new.image)
                self.taken = self.image.reduce(4).filter(ImageFilter.MaxFilter(3))
                self.tracks += new.tracks
                self.drills += new.drills
                return

    def path(self, points: list[tuple[float, float]], wide: float, copper: int = 255) -> None:
        """A track along the corners."""
        self.draw.line([(2 * x, 2 * y) for x, y in points], copper, max(round(2 * wide), 2), joint="curve")
        if copper:
            self.tracks += [(*a, *b, wide) for a, b in pairwise(points)]

    def disc(self, x: float, y: float, radius: float, copper: int) -> None:
        """A round piece of copper, or the hole in one."""
        self.draw.ellipse([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], copper)

    def drill(self, x: float, y: float, radius: float) -> None:
        """The hole of a pad or of an area."""
        self.disc(x, y, radius, 0)
        self.drills.append((x, y, radius))

    def drilled(self) -> Mask:
        """Where the holes are, bool [H,W]."""
        image = Image.new("1", (self.width, self.height), 0)
        draw = ImageDraw.Draw(image)
        for x, y, radius in self.drills:
            far = radius + 1
            draw.ellipse([x - far, y - far, x + far, y + far], 1)
        return np.array(image)

    def bus(self) -> None:
        """Parallel tracks with bends of 45 degrees."""
        rng, count = self.rng, int(self.rng.integers(1, 7))
        flip, side = rng.random() < 0.5, 1 if rng.random() < 0.5 else -1
        long, short = (self.height, self.width) if flip else (self.width, self.height)
        base, first = float(rng.uniform(0, short)), float(rng.uniform(0.1, 0.6) * long)
        jog, ends = float(rng.uniform(1, 5)) * self.pitch, rng.random() < 0.5
        start, stop = (
            (-9.0, long + 9.0)
            if ends
            else (float(rng.uniform(-9, 0.3 * long)), float(rng.uniform(0.7 * long, long + 9)))
        )
        for at in range(count):
            off, bend = base + at * self.pitch, first - side * at * self.pitch * 0.41
            points = [(start, off), (bend, off), (bend + jog, off + side * jog), (stop, off + side * jog)]
            points = [(y, x) for x, y in points] if flip else points
            self.path(points, self.wide)
            if not ends or rng.random() < 0.3:
                for x, y in (points[0], points[-1]):
                    self.pad(x, y)

    def pad(self, x: float, y: float) -> None:
        """A pad at the end of a track: round with or without a hole, or square."""
        radius = min(self.wide * float(self.rng.uniform(0.9, 1.6)) + 1, 0.38 * self.pitch)
        if self.rng.random() < 0.3:
            self.draw.rectangle([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], 255)
        else:
            self.disc(x, y, radius, 255)
            if self.rng.random() < 0.6:
                self.drill(x, y, radius * float(self.rng.uniform(0.3, 0.6)))

    def row_of_pads(self) -> None:
        """A row or double row of equal pads, as of a chip or a connector."""
        rng, step = self.rng, self.pitch * float(self.rng.uniform(1, 2))
        flip, count, double = rng.random() < 0.5, int(rng.integers(3, 12)), rng.random() < 0.5
        x0, y0 = float(rng.uniform(0, self.width)), float(rng.uniform(0, self.height))
        long, short, square = (
            step * float(rng.uniform(0.28, 0.38)),
            step * float(rng.uniform(0.22, 0.36)),
            rng.random() < 0.5,
        )
        gap = step * float(rng.uniform(2, 6))
        for at in range(count):
            for line in range(1 + double):
                x, y = x0 + at * step, y0 + line * gap
                x, y = (y, x) if flip else (x, y)
                if square:
                    self.draw.rectangle([2 * (x - long), 2 * (y - short), 2 * (x + long), 2 * (y + short)], 255)
                else:
                    self.disc(x, y, long, 255)
                    self.drill(x, y, long * 0.45)
                if rng.random() < 0.4:
                    out = step * float(rng.uniform(1, 4)) * (1 if line else -1)
                    end = (x + out, y) if flip else (x, y + out)
                    self.path([(x, y), end], min(self.wide * 0.7, long))

    def area(self) -> None:
        """A large piece of copper with cut corners, sometimes with a hole."""
        rng = self.rng
        x, y = float(rng.uniform(-0.3, 0.8) * self.width), float(rng.uniform(-0.3, 0.8) * self.height)
        w, h = float(rng.uniform(0.2, 0.7) * self.width), float(rng.uniform(0.2, 0.7) * self.height)
        cut = float(rng.uniform(0, 0.3) * min(w, h))
        spots = [(x + cut, y), (x + w, y), (x + w, y + h - cut), (x + w - cut, y + h), (x, y + h), (x, y + cut)]
        inset = self.pitch * 0.4
        middle = (x + w / 2, y + h / 2)
        self.draw.polygon(
            [(2 * (a + inset * np.sign(middle[0] - a)), 2 * (b + inset * np.sign(middle[1] - b))) for a, b in spots],
            255,
        )
        if rng.random() < 0.4:
            self.drill(*middle, min(w, h) * float(rng.uniform(0.15, 0.35)))

    def text(self) -> None:
        """A line of signs in copper."""
        rng = self.rng
        x, y = float(rng.uniform(0, 1.6 * self.width)), float(rng.uniform(0, 1.8 * self.height))
        write_text(rng, self.draw, x, y, int(rng.integers(12, 40)), int(rng.integers(1, 6)))

    def copper(self) -> Field:
        """Coverage [H,W] in [0,1]."""
        return np.asarray(self.image.reduce(2), np.float32) * np.float32(1 / 255)


def layout(rng: np.random.Generator, height: int, width: int) -> tuple[Field, list[Track], Mask]:
    """A board's copper [H,W] in [0,1], its straight tracks, and where it is drilled, bool [H,W]."""
    board = _Board(rng, height, width)
    if rng.random() < 0.35:
        board.place(_Board.area)
    dense = 2 if board.pitch < 18 else 1
    for _ in range(dense * int(rng.integers(1, 5))):
        board.place(_Board.bus)
    for _ in range(dense * int(rng.integers(0, 4))):
        board.place(_Board.row_of_pads)
    for _ in range(dense * int(rng.integers(0, 6))):
        board.place(lambda new: new.pad(float(rng.uniform(0, width)), float(rng.uniform(0, height))))
    if rng.random() < 0.25:
        board.place(_Board.text)
    return board.copper(), board.tracks, board.drilled()


def circuit(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A board, as a black-and-white scan (with the ragged edges of a threshold) or in colour."""
    cover, tracks, drilled = layout(rng, height, width)
    scan = rng.random() < 0.55
    metal: Colour
    if scan:
        halves = Image.fromarray(cover).reduce(2).resize((width, height), Image.Resampling.BILINEAR)
        noise = np.clip(smooth(rng, height, width, float(rng.uniform(2, 5))), -1.6, 1.6)
        ragged = np.asarray(halves) + np.float32(rng.uniform(0.0, 0.2)) * noise
        soft = float(rng.choice([0.08, 0.5]))
        cover = np.clip((ragged - np.float32(0.5)) / np.float32(soft) + np.float32(0.5), 0, 1)
        metal, ground = np.full(3, 1.0, np.float32), np.zeros(3, np.float32)
        if rng.random() < 0.5:
            metal, ground = ground, metal
        rgb = over(ground, cover, metal)
    else:
        ground = pick(rng, "board", "board", "dark", "earth")
        metal = (
            shade(ground, float(rng.uniform(1.3, 2.2))) if rng.random() < 0.5 else pick(rng, "brass", "metal", "pale")
        )
        weave = np.float32(rng.uniform(0.0, 0.06)) * smooth(rng, height, width, 2) + np.float32(0.01) * white(
            rng, height, width
        )
        rgb = times(over(ground, cover, metal), weave + 1)
    return Scene(
        kind="circuit",
        name="printed circuit board",
        expect="complete, separate tracks with clean edges",
        rgb=rgb,
        defects={"short": 1, "open": 1, "spur": 1, "mouse bite": 1, "pinhole": 1, "excess copper": 1}
        | ({} if scan else {"scratch": 0.8, "stain": 0.6, "corrosion": 0.4, "contamination": 0.8}),
        under=ground,
        parts={"copper": cover > 0.5},
        plain=np.broadcast_to(metal, (height, width, 3)),
        metal=(cover > 0.5) | drilled,
        tracks=tracks,
        harsh=scan,
        grey=scan,
    )
