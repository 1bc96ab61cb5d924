"""Outlines of parts, drawn at twice the size: plate, disc, ring, bracket, capsule, gear, nut, bottle mouth."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

Spots = list[tuple[float, float]]


@dataclass
class Outline:
    """A part's shape under construction; coordinates in pixels of the final image."""

    rng: np.random.Generator
    height: int
    width: int
    image: Image.Image = field(init=False)
    x: float = field(init=False)
    y: float = field(init=False)
    radius: float = field(init=False)
    turn: float = field(init=False)
    holes: list[tuple[float, float, float]] = field(default_factory=list)
    """Regular holes that belong to the part: x, y, radius."""

    def __post_init__(self) -> None:
        rng = self.rng
        self.image = Image.new("L", (self.width * 2, self.height * 2), 0)
        close = 1.0 if rng.random() < 0.75 else float(rng.uniform(1.2, 2.0))
        self.x, self.y = self.width * float(rng.uniform(0.42, 0.58)), self.height * float(rng.uniform(0.42, 0.58))
        self.radius = min(self.height, self.width) * close * float(rng.uniform(0.26, 0.47))
        self.turn = float(rng.uniform(0, np.pi))

    def polygon(self, spots: Spots) -> None:
        """A filled polygon."""
        ImageDraw.Draw(self.image).polygon([(2 * x, 2 * y) for x, y in spots], 255)

    def disc(self) -> None:
        """The round shape itself."""
        ImageDraw.Draw(self.image).ellipse(self._box(self.radius), 255)

    def slab(self, tall: float, corner: float) -> None:
        """A lying rectangle, half as high as twice `tall`, with round corners."""
        ImageDraw.Draw(self.image).rounded_rectangle(self._box(tall), 2 * corner, 255)

    def rotate(self, degrees: float) -> None:
        """Turn what is drawn about the middle of the part."""
        self.image = self.image.rotate(degrees, Image.Resampling.BILINEAR, center=(2 * self.x, 2 * self.y))

    def ring_of(self, count: int, radius: float) -> Spots:
        """Corners of a regular polygon about the middle."""
        angles = self.turn + np.arange(count) * (2 * np.pi / count)
        return [(self.x + radius * float(np.cos(a)), self.y + radius * float(np.sin(a))) for a in angles]

    def bore(self, low: float, high: float) -> None:
        """One hole in the middle, between `low` and `high` radii wide."""
        self.holes = [(self.x, self.y, self.radius * float(self.rng.uniform(low, high)))]

    def _box(self, tall: float) -> list[float]:
        return [2 * (self.x - self.radius), 2 * (self.y - tall), 2 * (self.x + self.radius), 2 * (self.y + tall)]


def _plate(part: Outline) -> str:
    rng, width, height = part.rng, part.width, part.height
    left, top, right, bottom = (float(rng.uniform(-0.03, 0.14)) for _ in range(4))
    slip = [float(value) for value in rng.normal(0, 2, 4)]
    part.polygon(
        [
            (width * left + slip[0], height * top),
            (width * (1 - right) + slip[1], height * top + slip[2]),
            (width * (1 - right), height * (1 - bottom)),
            (width * left, height * (1 - bottom) + slip[3]),
        ]
    )
    return "plate"


def _disc(part: Outline) -> str:
    part.disc()
    if part.rng.random() < 0.6:
        spots = part.ring_of(int(part.rng.integers(3, 9)), part.radius * 0.68)
        part.holes = [(x, y, part.radius * 0.09) for x, y in spots]
    return "disc"


def _ring(part: Outline) -> str:
    part.disc()
    part.bore(0.3, 0.75)
    return "ring"


def _block(part: Outline) -> str:
    rng = part.rng
    tall = part.radius * float(rng.uniform(0.5, 1.0))
    part.slab(tall, tall * float(rng.uniform(0.05, 0.5)))
    if rng.random() < 0.6:
        off_x, off_y = part.radius * 0.8, tall * 0.75
        hole = min(part.radius, tall) * float(rng.uniform(0.07, 0.13))
        part.holes = [(part.x + a * off_x, part.y + b * off_y, hole) for a in (-1, 1) for b in (-1, 1)]
        return "bracket"
    part.rotate(float(rng.choice([0.0, rng.normal(0, 4), 90.0])))
    return "block"


def _capsule(part: Outline) -> str:
    tall = part.radius * float(part.rng.uniform(0.3, 0.5))
    part.slab(tall, tall)
    part.rotate(float(part.rng.uniform(0, 180)))
    return "capsule"


def _gear(part: Outline) -> str:
    teeth, depth = int(part.rng.integers(8, 28)), float(part.rng.uniform(0.1, 0.25))
    spots: Spots = []
    for tooth in range(teeth):
        for share, far in ((0.0, 1 - depth), (0.2, 1.0), (0.5, 1.0), (0.7, 1 - depth)):
            angle, reach = part.turn + (tooth + share) * 2 * np.pi / teeth, part.radius * far
            spots.append((part.x + reach * float(np.cos(angle)), part.y + reach * float(np.sin(angle))))
    part.polygon(spots)
    part.bore(0.15, 0.4)
    return "gear"


def _nut(part: Outline) -> str:
    part.polygon(part.ring_of(6, part.radius))
    part.bore(0.35, 0.6)
    return "nut"


def _bottle(part: Outline) -> str:
    part.disc()
    part.bore(0.55, 0.8)
    return "bottle mouth"


_FORMS: tuple[tuple[float, Callable[[Outline], str]], ...] = (
    (0.24, _plate),
    (0.14, _disc),
    (0.12, _ring),
    (0.14, _block),
    (0.1, _capsule),
    (0.1, _gear),
    (0.08, _nut),
    (0.08, _bottle),
)


def draw_outline(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, bool, str]:
    """A random part: its coverage float32 [H,W] in [0,1] (holes left out), whether it has holes, its name."""
    part = Outline(rng, height, width)
    name = _FORMS[int(rng.choice(len(_FORMS), p=[share for share, _ in _FORMS]))][1](part)
    draw = ImageDraw.Draw(part.image)
    for x, y, radius in part.holes:
        draw.ellipse([2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)], 0)
    return np.asarray(part.image.reduce(2), np.float32) * np.float32(1 / 255), bool(part.holes), name
