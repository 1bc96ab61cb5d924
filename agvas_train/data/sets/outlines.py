"""COCO's segmentations as masks: polygons, run lengths, or lists of either, painted as pycocotools paints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from agvas_runtime.encoding import mask_from_rle
from agvas_runtime.errors import InputError
from agvas_train.data.sets.reading import naming
from agvas_train.data.sets.sample import Mask, Size

FINE = 5
"""Steps a pixel in which pycocotools walks along an outline."""
FARTHEST = 100_000
"""Pixels from the origin that a corner may lie at; an outline is walked step by step."""


@dataclass(frozen=True, eq=False)
class Painted:
    """A mask that is at hand, with no pixel left open."""

    painted: Mask

    @property
    def size(self) -> Size:
        """Height and width of the mask."""
        return self.painted.shape[0], self.painted.shape[1]

    def mask(self) -> Mask:
        """The mask itself, bool [H, W]."""
        return self.painted

    def ignored(self) -> None:
        """Nothing."""


def paint(segmentations: Iterable[Any], size: Size, source: str) -> Painted:
    """The union of some annotations' segmentations in an image of one size (H, W); [] paints nothing.

    Args:
        source: what to name when one cannot be painted.

    Raises:
        InputError: a segmentation is neither polygons nor run lengths, or is of another size.
    """
    mask = np.zeros(size, np.bool_)
    for segmentation in segmentations:
        with naming(source):
            for part in [segmentation] if isinstance(segmentation, dict) else segmentation:
                mask |= _part(part, size, source) if isinstance(part, dict) else polygon_mask(part, size)
    return Painted(mask)


def _part(lengths: dict[str, Any], size: Size, source: str) -> Mask:
    if tuple(lengths["size"]) != size:
        raise InputError(f"{source}: found run lengths of {lengths['size']}, expected {list(size)}")
    try:
        return run_length_mask(lengths["counts"], size)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def run_length_mask(counts: str | bytes | Sequence[int], size: Size) -> Mask:
    """The mask of this size (H, W) in COCO's run lengths, compressed (text) or not (numbers). Raises InputError."""
    if isinstance(counts, str | bytes):
        return mask_from_rle(counts.encode("latin-1") if isinstance(counts, str) else counts, size)
    runs = np.asarray(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise InputError(f"found run lengths of {int(runs.sum())} pixels, expected {size[0]} x {size[1]}")
    return _from_runs(runs, size)


def polygon_mask(polygon: Sequence[float], size: Size) -> Mask:
    """The pixels inside a polygon x0, y0, x1, y1, ..., bool of this size (H, W).

    The outline is walked in steps of a fifth of a pixel. Wherever the walk crosses the middle of a column of pixels,
    the pixels below turn from outside to inside or back.

    Raises:
        ValueError: an odd number of coordinates, none, or one that is no number or beyond FARTHEST.
    """
    if len(polygon) % 2 or not len(polygon):
        raise ValueError(f"polygon of {len(polygon)} coordinates, expected pairs")
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    if not (np.abs(corners) <= FARTHEST).all():
        raise ValueError(f"polygon with a coordinate that is no number, or beyond {FARTHEST}")
    height, width = size
    x, y = _walk((FINE * corners + 0.5).astype(np.int64))
    moved = np.flatnonzero(x[1:] != x[:-1])
    left = np.minimum(x[moved], x[moved + 1]) - FINE // 2
    top = np.minimum(y[moved], y[moved + 1]) - FINE // 2
    column, row = left // FINE, np.clip(-(-top // FINE), 0, height)
    crossing = (left % FINE == 0) & (column >= 0) & (column < width)
    turns = np.sort(column[crossing] * height + row[crossing])
    return _from_runs(np.diff(turns, prepend=0, append=height * width), size)


def _walk(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every point (x, y) of the closed outline, one step apart along each edge's longer direction, corners twice."""
    ends = np.roll(corners, -1, axis=0)
    extent = np.abs(ends - corners)
    steep = extent[:, 1] > extent[:, 0]
    along = steep.astype(np.int64)  # which coordinate grows by one a step
    edges = np.arange(len(corners))
    backward = corners[edges, along] > ends[edges, along]  # edges are walked upwards, so both neighbours agree on them
    low, high = np.where(backward[:, None], ends, corners), np.where(backward[:, None], corners, ends)
    length = extent.max(axis=1)
    across = 1 - along
    slope = (high - low)[edges, across] / np.maximum(length, 1)
    edge = np.repeat(edges, length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(backward[edge], length[edge] - step, step)
    main = low[edge, along[edge]] + step
    other = (low[edge, across[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(steep[edge], other, main), np.where(steep[edge], main, other)


def _from_runs(runs: np.ndarray, size: Size) -> Mask:
    """Runs down the columns, outside first."""
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(inside.reshape(size[::-1]).T)


def drawn_polygon(points: Sequence[Sequence[float]], size: Size) -> Mask:
    """The pixels inside a polygon of points (x, y) and on its outline, bool of this size (H, W)."""
    picture = Image.new("1", (size[1], size[0]))
    corners = [(int(x), int(y)) for x, y in points]
    if len(corners) > 1:
        ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
    else:
        ImageDraw.Draw(picture).point(corners, fill=1)
    return np.array(picture)
