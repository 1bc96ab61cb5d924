"""Shapes of defects as small windows of blend weights: blobs, lines, walks. Nothing here knows of colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agvas_train.data.synth.fields import Field, smooth

Points = NDArray[np.float64]


@dataclass
class Shape:
    """A window of the image and the weight of the paint in it."""

    top: int
    left: int
    alpha: Field
    """float32 [h,w] in [0,1]."""
    depth: Field | None = None
    """Blobs: signed depth below the outline in units of the radius, float32 [h,w]; 1 at the middle."""

    @property
    def window(self) -> tuple[slice, slice]:
        """The window as slices of the image."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def blob(
    rng: np.random.Generator,
    size: tuple[int, int],
    centre: tuple[float, float],
    radius: float,
    *,
    aspect: float = 1.0,
    angle: float = 0.0,
    rough: float = 0.3,
    soft: float = 0.15,
    detail: float = 0.6,
) -> Shape | None:
    """An irregular spot around `centre` (x, y) of an image of `size` (H, W).

    `radius` is in pixels across the short axis, `aspect` long to short, `angle` that of the long axis; `rough` bends
    the outline, `detail` is the coarseness of the bends in radii, `soft` the width of its edge in radii.
    """
    reach = radius * (1.15 + rough)
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    reach_x, reach_y = reach * (aspect * c + s), reach * (aspect * s + c)
    left, right = max(int(centre[0] - reach_x), 0), min(int(centre[0] + reach_x) + 2, size[1])
    top, bottom = max(int(centre[1] - reach_y), 0), min(int(centre[1] + reach_y) + 2, size[0])
    if right - left < 2 or bottom - top < 2:
        return None
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre[1])
    x = np.arange(left, right, dtype=np.float32)[None] - np.float32(centre[0])
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = (x * c + y * s) / np.float32(radius * aspect), (y * c - x * s) / np.float32(radius)
    depth = np.float32(1) - np.sqrt(along * along + across * across)
    if rough > 0:
        bend = smooth(rng, bottom - top, right - left, radius * detail)
        depth = depth + np.float32(rough * 0.5) * np.clip(bend, -2, 2)
    edge = max(soft, 0.7 / radius)
    return Shape(top, left, np.clip(depth * np.float32(1 / edge) + np.float32(0.5), 0, 1), depth)


def walk(
    rng: np.random.Generator,
    start: tuple[float, float],
    angle: float,
    length: float,
    *,
    step: float = 4.0,
    wander: float = 0.25,
    pull: float = 0.15,
) -> Points:
    """A meandering path [n,2] of x, y: each step turns by about `wander` radians and is pulled back to `angle`."""
    count = max(int(length / step), 2)
    kicks = rng.normal(0, wander, count)
    heading, turns = 0.0, np.empty(count)
    for at in range(count):
        heading = heading * (1 - pull) + kicks[at]
        turns[at] = heading
    moves = step * np.stack([np.cos(angle + turns), np.sin(angle + turns)], axis=1)
    return np.concatenate([[start], start + np.cumsum(moves, axis=0)])


def arc(start: tuple[float, float], angle: float, length: float, bow: float, count: int = 16) -> Points:
    """A smooth bent path [n,2]: `length` pixels from `start`, its middle `bow` lengths off the straight line."""
    t = np.linspace(0, 1, count)
    along, across = length * t, 4 * bow * length * t * (1 - t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([start[0] + along * c - across * s, start[1] + along * s + across * c], axis=1)


def lines(
    size: tuple[int, int], paths: list[Points], widths: list[NDArray[np.float64] | float], scale: int = 3
) -> Shape | None:
    """Anti-aliased lines along the paths; a width in pixels for the whole path or one for each of its points."""
    wide = max(float(np.max(width)) for width in widths)
    corners = np.concatenate(paths)
    low, high = corners.min(axis=0) - wide - 1, corners.max(axis=0) + wide + 2
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]) + 1, size[1]), min(int(high[1]) + 1, size[0])
    if right - left < 2 or bottom - top < 2:
        return None
    image = Image.new("L", ((right - left) * scale, (bottom - top) * scale))
    draw = ImageDraw.Draw(image)
    for path, width in zip(paths, widths, strict=True):
        spots = [((x - left + 0.5) * scale, (y - top + 0.5) * scale) for x, y in path.tolist()]
        if np.isscalar(width):
            draw.line(spots, 255, max(round(float(width) * scale), 1), joint="curve" if width * scale > 4 else None)
            continue
        for at, thick in enumerate(np.asarray(width)[: len(spots) - 1].tolist()):
            thick *= scale
            draw.line((spots[at], spots[at + 1]), 255, max(round(thick), 1))
            if thick > 4:
                (x, y), half = spots[at + 1], thick / 2
                draw.ellipse((x - half, y - half, x + half, y + half), 255)
    alpha = np.asarray(image.reduce(scale), dtype=np.float32) * np.float32(1 / 255)
    return Shape(top, left, alpha)


def join(shapes: list[Shape]) -> Shape | None:
    """One shape that covers all the others."""
    if not shapes:
        return None
    top, left = min(shape.top for shape in shapes), min(shape.left for shape in shapes)
    bottom = max(shape.top + shape.alpha.shape[0] for shape in shapes)
    right = max(shape.left + shape.alpha.shape[1] for shape in shapes)
    alpha = np.zeros((bottom - top, right - left), np.float32)
    for shape in shapes:
        height, width = shape.alpha.shape
        part = alpha[shape.top - top :, shape.left - left :][:height, :width]
        np.maximum(part, shape.alpha, out=part)
    return Shape(top, left, alpha)
