"""Random fields, the raw material of every surface and defect: float32 [H,W], made fast.

White noise is cut from one fixed table, so a field costs a slice and a resize. Nothing here knows of surfaces.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]

TABLE = 1024
_ROWS = 8


@lru_cache(maxsize=1)
def _table() -> Field:
    return np.random.Generator(np.random.SFC64(20260301)).standard_normal((TABLE, TABLE), dtype=np.float32)


@lru_cache(maxsize=8)
def _soft_table(blur: float) -> Field:
    """The table blurred by a Gaussian of `blur` pixels, deviation 1 again: noise of fine grain."""
    taps = np.exp(-0.5 * (np.arange(-4, 5) / blur) ** 2)
    taps = (taps / np.sqrt((taps * taps).sum())).astype(np.float32)
    soft = _table()
    for axis in (0, 1):
        soft = sum(np.float32(tap) * np.roll(soft, at - 4, axis) for at, tap in enumerate(taps) if tap > 1e-3)
    return soft


def white(rng: np.random.Generator, height: int, width: int) -> Field:
    """White Gaussian noise [H,W], mean 0, deviation 1 (a view of the table: never write to it; sides up to 1023)."""
    return _cut(rng, _table(), height, width)


def _cut(rng: np.random.Generator, table: Field, height: int, width: int) -> Field:
    top, left = int(rng.integers(TABLE - height)), int(rng.integers(TABLE - width))
    cut = table[top : top + height, left : left + width]
    flips = int(rng.integers(4))
    return cut[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]


def resize(field: Field, height: int, width: int, method: Image.Resampling = Image.Resampling.BICUBIC) -> Field:
    """The field resampled to [height, width]."""
    return np.array(Image.fromarray(np.ascontiguousarray(field)).resize((width, height), method))


@lru_cache(maxsize=512)
def _spline(length: int, spans: int) -> Field:
    """Cubic B-spline weights of `spans` cells over `length` pixels, each row of unit norm, padded with zero rows.

    Shape [ceil(length / 8), 8, spans + 3]: products of a few rows at a time, which BLAS leaves on this one thread.
    """
    at = (np.arange(length) + 0.5) * (spans / length)
    first = at.astype(np.int64)
    t = at - first
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3], axis=1)
    taps /= np.sqrt((taps * taps).sum(axis=1, keepdims=True))
    weights = np.zeros((length + -length % _ROWS, spans + 3), np.float32)
    weights[np.arange(length)[:, None], first[:, None] + np.arange(4)] = taps
    return weights.reshape(-1, _ROWS, spans + 3)


@lru_cache(maxsize=512)
def _spline_across(length: int, spans: int) -> Field:
    """The same weights as [spans + 3, length]."""
    return np.ascontiguousarray(_spline(length, spans).reshape(-1, spans + 3)[:length].T)


def smooth(rng: np.random.Generator, height: int, width: int, cell: float, cell_x: float | None = None) -> Field:
    """Noise whose features are about `cell` pixels high and `cell_x` (default: the same) wide; deviation about 1."""
    across = cell if cell_x is None else cell_x
    if cell <= 2.8 and across == cell:
        table = (
            _table()
            if cell <= 1.1
            else _soft_table(0.5 if cell < 1.5 else 0.7 if cell < 2.0 else 1.0 if cell < 2.4 else 1.3)
        )
        return _cut(rng, table, height, width).copy()
    down, right = max(round(height / max(cell, 1.0)), 1), max(round(width / max(across, 1.0)), 1)
    if down <= 64 and right <= 64:
        noise = np.ascontiguousarray(white(rng, down + 3, right + 3))
        return (_spline(height, down) @ noise @ _spline_across(width, right)).reshape(-1, width)[:height]
    if down <= 64:
        return (_spline(height, down) @ _fine(rng, down + 3, width, across)).reshape(-1, width)[:height]
    if right <= 64:
        turned_field = (_spline(width, right) @ _fine(rng, right + 3, height, cell)).reshape(-1, height)[:width]
        return np.ascontiguousarray(turned_field.T)
    rows, columns = max(int(height / max(cell, 1.0)), 1) + 3, max(int(width / max(across, 1.0)), 1) + 3
    if rows > height and columns > width:
        return white(rng, height, width).copy()
    rows, columns = min(rows, TABLE // 2), min(columns, TABLE // 2)  # the finest noise of large images is a bit coarser
    noise = np.ascontiguousarray(white(rng, rows, columns))
    span_y, span_x = min(height / max(cell, 1.0), rows - 2.0), min(width / max(across, 1.0), columns - 2.0)
    y, x = 1.0 + rng.random() * (rows - 2 - span_y), 1.0 + rng.random() * (columns - 2 - span_x)
    picture = Image.fromarray(noise).resize(
        (width, height), Image.Resampling.BICUBIC, box=(x, y, x + span_x, y + span_y)
    )
    return np.asarray(picture) * np.float32(1.2)


def _fine(rng: np.random.Generator, rows: int, length: int, cell: float) -> Field:
    """White noise down, features of about `cell` pixels along: [rows, length]."""
    if cell <= 1.2:
        return np.ascontiguousarray(white(rng, rows, length))
    noise = np.ascontiguousarray(white(rng, rows, min(int(length / cell) + 3, TABLE - 1)))
    picture = Image.fromarray(noise).resize(
        (length, rows), Image.Resampling.BICUBIC, box=(1, 0, min(1 + length / cell, noise.shape[1]), rows)
    )
    return np.asarray(picture) * np.float32(1.1)


def fractal(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 3, gain: float = 0.5
) -> Field:
    """Sum of `octaves` smooth fields, each half as coarse and `gain` as strong; deviation about 1."""
    total = smooth(rng, height, width, cell)
    weight, power = 1.0, 1.0
    for _ in range(octaves - 1):
        cell, weight = cell / 2, weight * gain
        total += np.float32(weight) * smooth(rng, height, width, cell)
        power += weight * weight
    return total * np.float32(power**-0.5)


@lru_cache(maxsize=2)
def _cell_table(side: int = 768, cell: int = 16) -> Field:
    """Periodic Voronoi cells [3, side, side]: distance to the nearest seed, to the border (F2 - F1), a value a cell."""
    count = side // cell
    rng = np.random.Generator(np.random.SFC64(7))
    seeds = rng.random((count, count, 3), dtype=np.float32)
    at = np.arange(side)
    own = at // cell
    near = np.full((side, side), 9e9, np.float32)
    second, value = near.copy(), np.zeros_like(near)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            rows, columns = own + dy, own + dx
            seed = seeds[np.ix_(rows % count, columns % count)]
            y = (rows[:, None] + seed[..., 0]) * cell - at[:, None]
            x = (columns[None] + seed[..., 1]) * cell - at[None]
            distance = np.sqrt(y * y + x * x, dtype=np.float32)
            closer = distance < near
            second = np.where(closer, near, np.minimum(second, distance))
            value = np.where(closer, seed[..., 2], value)
            near = np.where(closer, distance, near)
    return np.stack([near / cell, (second - near) / cell, value]).astype(np.float32)


def cells(
    rng: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0
) -> tuple[Field, Field, Field]:
    """Voronoi cells about `cell` pixels across: distance to the seed, to the border (both in cells), value in [0,1]."""
    table = _cell_table()
    side = table.shape[1]
    span_y, span_x = min(16 * height / cell, side - 1.0), min(16 * width / (cell * stretch), side - 1.0)
    y, x = rng.random() * (side - span_y), rng.random() * (side - span_x)
    turn = int(rng.integers(4))
    out = []
    for index, method in enumerate((Image.Resampling.BILINEAR, Image.Resampling.BILINEAR, Image.Resampling.NEAREST)):
        plane = table[index][:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1]
        picture = Image.fromarray(np.ascontiguousarray(plane))
        out.append(np.asarray(picture.resize((width, height), method, box=(x, y, x + span_x, y + span_y))))
    return out[0], out[1], out[2]


def rotate(field: Field, height: int, width: int, angle: float) -> Field:
    """The middle [height, width] of a larger field turned by `angle` radians."""
    rows, columns = field.shape
    c, s = float(np.cos(angle)), float(np.sin(angle))
    cx, cy = width / 2, height / 2
    data = (c, s, columns / 2 - c * cx - s * cy, -s, c, rows / 2 + s * cx - c * cy)
    picture = Image.fromarray(np.ascontiguousarray(field))
    return np.asarray(
        picture.transform((width, height), Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR)
    )


def turned(
    rng: np.random.Generator, height: int, width: int, make: Callable[[int, int], Field], oblique: float = 0.3
) -> tuple[Field, float]:
    """`make(height, width)` turned: by 0 or 90 degrees mostly, by any angle in a share of `oblique`.

    Returns the field and the direction its x axis has now, radians.
    """
    if rng.random() < oblique:
        angle = float(rng.uniform(-np.pi / 2, np.pi / 2))
        c, s = abs(np.cos(angle)), abs(np.sin(angle))
        rows, columns = int(np.ceil(height * c + width * s)) + 2, int(np.ceil(width * c + height * s)) + 2
        return rotate(make(rows, columns), height, width, angle), angle
    if rng.random() < 0.5:
        return make(height, width), 0.0
    return np.ascontiguousarray(make(width, height).T), float(np.pi / 2)


def ramp(field: Field, low: float, high: float) -> Field:
    """The field clipped and scaled: 0 at `low` and below, 1 at `high` and above."""
    return np.clip((field - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)
