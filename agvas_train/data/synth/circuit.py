"""Printed circuit boards: tracks, pads, vias and copper areas; binarised scans or coloured photographs."""

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from agvas_train.data.synth.colours import Colour, over, pick, shade, times
from agvas_train.data.synth.fields import Field, smooth, white
from agvas_train.data.synth.printed import write_text
from agvas_train.data.synth.scene import Scene

Track = tuple[float, float, float, float, float]


class _Board:
    """Draws copper at twice the size; remembers the straight pieces of its tracks."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self.image = Image.new("L", (width * 2, height * 2), 0)
        self.draw = ImageDraw.Draw(self.image)
        self.tracks: list[Track] = []
        self.pitch = float(np.exp(rng.uniform(np.log(9), np.log(48))))
        self.wide = self.pitch * float(rng.uniform(0.22, 0.6))

    def path(self, points: list[tuple[float, float]], wide: float, copper: int = 255) -> None:
        """A track along the corners."""
        self.draw.line([(2 * x, 2 * y) for x, y in points], copper, max(round(2 * wide), 2), joint="curve")
        if copper:
            self.tracks += [(*a, *b, wide) for a, b in pairwise(points)]

    def disc(self, x: float, y: float, radius: float, copper: int) -> None:
        """A round pad or the hole in one."""
        self.draw.ellipse([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], copper)

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
        radius = self.wide * float(self.rng.uniform(0.9, 1.6)) + 1
        if self.rng.random() < 0.3:
            self.draw.rectangle([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], 255)
        else:
            self.disc(x, y, radius, 255)
            if self.rng.random() < 0.6:
                self.disc(x, y, radius * float(self.rng.uniform(0.3, 0.6)), 0)

    def row_of_pads(self) -> None:
        """A row or double row of equal pads, as of a chip or a connector."""
        rng, step = self.rng, self.pitch * float(self.rng.uniform(1, 2))
        flip, count, double = rng.random() < 0.5, int(rng.integers(3, 12)), rng.random() < 0.5
        x0, y0 = float(rng.uniform(0, self.width)), float(rng.uniform(0, self.height))
        long, short, square = (
            step * float(rng.uniform(0.3, 0.42)),
            step * float(rng.uniform(0.25, 0.4)),
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
                    self.disc(x, y, long * 0.45, 0)
                if rng.random() < 0.4:
                    turn = float(rng.choice([0, 1, 2, 3])) * np.pi / 2
                    end = (x + 3 * step * np.cos(turn), y + 3 * step * np.sin(turn))
                    self.path([(x + long * np.cos(turn), y + long * np.sin(turn)), end], self.wide * 0.7)

    def area(self) -> None:
        """A large piece of copper with cut corners, sometimes with a hole."""
        rng = self.rng
        x, y = float(rng.uniform(-0.3, 0.8) * self.width), float(rng.uniform(-0.3, 0.8) * self.height)
        w, h = float(rng.uniform(0.2, 0.7) * self.width), float(rng.uniform(0.2, 0.7) * self.height)
        cut = float(rng.uniform(0, 0.3) * min(w, h))
        spots = [(x + cut, y), (x + w, y), (x + w, y + h - cut), (x + w - cut, y + h), (x, y + h), (x, y + cut)]
        self.draw.polygon([(2 * a, 2 * b) for a, b in spots], 0)
        inset = self.pitch * 0.4
        middle = (x + w / 2, y + h / 2)
        self.draw.polygon(
            [(2 * (a + inset * np.sign(middle[0] - a)), 2 * (b + inset * np.sign(middle[1] - b))) for a, b in spots],
            255,
        )
        if rng.random() < 0.4:
            self.disc(*middle, min(w, h) * float(rng.uniform(0.15, 0.35)), 0)

    def copper(self) -> Field:
        """Coverage [H,W] in [0,1]."""
        return np.asarray(self.image.reduce(2), np.float32) * np.float32(1 / 255)


def _layout(rng: np.random.Generator, height: int, width: int) -> tuple[Field, list[Track]]:
    board = _Board(rng, height, width)
    for _ in range(int(rng.integers(1, 5))):
        board.bus()
    if rng.random() < 0.35:
        board.area()
    for _ in range(int(rng.integers(0, 4))):
        board.row_of_pads()
    for _ in range(int(rng.integers(0, 6))):
        board.pad(float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    if rng.random() < 0.25:
        size = int(rng.integers(12, 40))
        write_text(
            rng,
            board.draw,
            float(rng.uniform(0, 1.6 * width)),
            float(rng.uniform(0, 1.8 * height)),
            2 * size // 2,
            int(rng.integers(1, 6)),
        )
    return board.copper(), board.tracks


def circuit(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A board, as a black-and-white scan (with the ragged edges of a threshold) or in colour."""
    cover, tracks = _layout(rng, height, width)
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
        | ({} if scan else {"scratch": 0.8, "stain": 0.6, "contamination": 0.8}),
        under=ground,
        parts={"copper": cover > 0.5},
        plain=np.broadcast_to(metal, (height, width, 3)),
        metal=cover > 0.5,
        tracks=tracks,
        harsh=scan,
        grey=scan,
    )
