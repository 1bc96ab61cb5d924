"""Whether a spot is one of many: a dark speck among dark grains of its size is no defect that somebody would find."""

from collections.abc import Callable

import numpy as np

from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.scene import Mask

Like = Callable[[Field], Mask]
DETAIL = 6
"""Pixels that are left of a spot's thickness where the surface is searched for others like it."""
RARE = 1e-3
"""Share of the surface around that has a spot's colour, below which it is not searched: one or two like it at most."""
MATCH = 0.6
"""How much more of a place than of the ring around it has the spot's colour where it looks like the spot; at most 1."""
ALONE = 0.05
"""Share of the ring around its thickest place that a shape fills at most where it is a spot, or a few."""


def one_of_many(surface: Field, where: Mask | None, window: tuple[slice, slice], shape: Mask, like: Like) -> bool:
    """Whether a shape is a spot, or a few, and the surface has others near that look like the thickest of them.

    A spot and the ring around it are looked for together, where both lie whole in the picture, so that a broad field of
    its colour is not like it. What is long, or branches, fills more of its ring and is never one of many.

    Args:
        surface: RGB [H,W,3].
        where: pixels that are surface [H,W]; None: all.
        window: the part of the surface that the shape lies in.
        shape: pixels of the window [h,w], one at least.
        like: which of some colours [h,w,3] count as the shape's, bool [h,w].
    """
    around, edge = np.pad(shape, 1), np.zeros(shape.shape, np.bool_)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= shape & ~around[rows : rows + shape.shape[0], columns : columns + shape.shape[1]]
    thickness = 4 * float(shape.sum()) / float(edge.sum())
    step, reach = max(int(thickness / DETAIL), 1), int(1.25 * thickness) + 1
    y, x = _thickest(shape, max(int(thickness) // 2, 1))
    piece = np.pad(shape, reach)[y : y + 2 * reach + 1 : step, x : x + 2 * reach + 1 : step]
    rows, columns = np.ogrid[-reach : reach + 1 : step, -reach : reach + 1 : step]
    distance = np.hypot(rows, columns)
    ring = (distance > 0.75 * thickness) & (distance <= 1.25 * thickness)
    if not ring.any() or piece[ring].mean() > ALONE:
        return False
    piece = piece & (distance <= 0.75 * thickness)
    ring = ~piece & (distance <= 1.25 * thickness)
    y, x, look = y + window[0].start, x + window[1].start, int(48 + 8 * thickness)
    near = np.s_[max(y - look, 0) : y + look : step, max(x - look, 0) : x + look : step]
    elsewhere = np.ones(surface.shape[:2], np.bool_) if where is None else where.copy()
    elsewhere[window] &= ~shape
    same = like(surface[near]) & elsewhere[near]
    if same.mean() < RARE or min(same.shape) < len(piece):
        return False
    kernel = piece / piece.sum() - ring / ring.sum()
    size = [-(-side // 32) * 32 for side in same.shape]  # transforms of odd sizes take far longer
    match = np.fft.irfft2(np.fft.rfft2(same, size) * np.fft.rfft2(kernel, size).conj(), size)
    inside = match[: same.shape[0] - len(piece) + 1, : same.shape[1] - len(piece) + 1]
    return bool(inside.max() > MATCH)


def _thickest(shape: Mask, reach: int) -> tuple[int, int]:
    """The pixel of a shape that has most of the shape in the box of so many pixels to each side."""
    sums = np.pad(shape, ((reach + 1, reach), (reach + 1, reach))).astype(np.int32).cumsum(axis=0).cumsum(axis=1)
    side = 2 * reach + 1
    full = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(int(np.where(shape, full, -1).argmax()), shape.shape)
    return int(y), int(x)
