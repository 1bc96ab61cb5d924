"""Whether somebody who has not seen the surface clean would find a painted defect, and how they would mark it."""

import numpy as np
from PIL import Image, ImageFilter

from agvas_train.data.synth.alike import one_of_many
from agvas_train.data.synth.colours import LUMA
from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.scene import Mask, Scene

POINTS, PLACES = 192, 32
"""About how many pixels of a defect are looked at, and how many places around it they are compared with."""
OF_PLACES, OF_PIXELS = 4.0, 2.5
"""Standard deviations: of the mean colours of places shaped like the defect, or of single pixels."""
SAME = 0.3
"""How far a colour may be from a defect's, in parts of the latter's distance from the usual, to pass for it."""
OF_STEEPNESS = 3.0
"""Of the mean steepness of such places."""
SEEN = np.stack((LUMA, np.float32([0.7, -0.7, 0.0]), np.float32([0.2, 0.2, -0.4])), axis=1)
"""RGB to what an eye compares: brightness, red against green, and, less sharply, yellow against blue."""


def stands_out(
    scene: Scene, window: tuple[slice, slice], hit: Mask, painted: Field, least: float, noise: float, clean: Field
) -> bool:
    """Whether the painted pixels have a colour that the surface around them does not have.

    Of the pixels `hit` of the window [h,w], those count that became lighter, or darker, whichever are more (a dent has
    both). The mean of their colours in the painted picture [h,w,3] is compared with the means of pixels of the same
    shape at places around it, as they were before it. In brightness, or in one of two tones, it has to lie OF_PLACES
    standard deviations of those means away, or OF_PIXELS of single pixels; and about one of single pixels in any case:
    more for a thin mark, less for a broad one. So a speck among grains has to differ from every grain, and a stain
    across many of them from their mean. Where grains are few no such deviation tells a speck of their kind from them;
    so nothing near may look like it either (`one_of_many`).

    Args:
        least: a very broad mark has to differ by 1.4 times this at least, a thin one by 2.5 times; in [0, 1].
        noise: deviation of the camera's noise, of brightness in [0, 1]; it adds to that of single pixels.
        clean: the surface without any defect [H,W,3]; other defects do not make this one usual.
    """
    lighter = (painted - scene.rgb[window]) @ LUMA > 0
    changed = hit & (lighter == (2 * (lighter & hit).sum() > hit.sum()))
    at = np.flatnonzero(changed)
    count = len(at)
    at = at[:: max(count // POINTS, 1)]
    y, x = np.unravel_index(at, hit.shape)
    mean = painted[y, x].mean(axis=0) @ SEEN
    y, x = y + window[0].start, x + window[1].start
    extent = max(np.ptp(y), np.ptp(x)) + 1
    thickness = min(count / extent, count**0.5)
    contrast = float(np.clip(1.5 - 0.18 * np.log2(thickness), 0.4, 1.5))
    colours, weight = _around(scene, y, x, extent)
    enough = weight.sum(axis=(1, 2)) * 2 > len(at)
    if enough.sum() < PLACES // 5:  # too large to fit in elsewhere: single pixels of the whole surface
        y, x = (part.ravel() for part in np.mgrid[0 : scene.size[0] - 1 : 24j, 0 : scene.size[1] - 1 : 24j].astype(int))
        free = np.ones(scene.size, np.bool_)
        free[window] &= ~hit
        colours, weight = _surface(scene, y[free[y, x]][:, None], x[free[y, x]][:, None])
        means = None
    else:
        colours, weight = colours[enough], weight[enough]
        means = (colours * weight).sum(axis=1) / weight.sum(axis=1)
    total = max(float(weight.sum()), 1.0)
    usual = (colours * weight).sum(axis=(0, 1)) / total
    pixels = np.sqrt(((colours - usual) ** 2 * weight).sum(axis=(0, 1)) / total + noise**2)
    by = np.abs(mean - usual)
    telling = by > np.maximum(contrast * pixels, (1 + contrast) * least)
    if means is not None:
        telling &= by > np.minimum(OF_PLACES * means.std(axis=0), OF_PIXELS * pixels)
    if not telling.any():
        return False
    near = SAME**2 * float(by @ by)
    return not one_of_many(
        clean, scene.body, window, changed, lambda rgb: np.square(rgb @ SEEN - mean).sum(axis=2) < near
    )


def bends(scene: Scene, window: tuple[slice, slice], hit: Mask, painted: Field) -> bool:
    """Whether the painted pixels have edges of another strength or direction than the surface around them has.

    As `stands_out`, of how steep brightness is along x, along y and along the diagonals, instead of colours: threads
    that run the other way are found on a cloth, and not on a leather. A mean has to lie OF_STEEPNESS standard
    deviations of the means of places around it away, and a quarter of the usual steepness.
    """
    at = np.flatnonzero(hit)
    at = at[:: max(len(at) // POINTS, 1)]
    y, x = np.unravel_index(at, hit.shape)
    mean = _steepness(painted)[y, x].mean(axis=0)
    y, x = y + window[0].start, x + window[1].start
    steepness, weight = _around(scene, y, x, max(np.ptp(y), np.ptp(x)) + 1, _steepness(scene.rgb))
    enough = weight.sum(axis=(1, 2)) * 2 > len(at)
    if enough.sum() < PLACES // 5:
        return False
    steepness, weight = steepness[enough], weight[enough]
    means = (steepness * weight).sum(axis=1) / weight.sum(axis=1)
    usual = means.mean(axis=0)
    by = np.abs(mean - usual)
    return bool(((by > OF_STEEPNESS * means.std(axis=0)) & (by > 0.25 * (usual[0] + usual[1]))).any())


def _steepness(rgb: Field) -> Field:
    """Squares and product of the differences of brightness along y and x, float32 [H,W,3]."""
    brightness = rgb @ LUMA
    down, right = np.zeros_like(brightness), np.zeros_like(brightness)
    down[:-1] = np.diff(brightness, axis=0)
    right[:, :-1] = np.diff(brightness, axis=1)
    return np.stack((down * down, right * right, down * right), axis=2)


def _around(scene: Scene, y: np.ndarray, x: np.ndarray, extent: float, of: Field | None = None) -> tuple[Field, Field]:
    """`_surface` at PLACES places shaped as the pixels y, x [N], around them, from just beside them outwards."""
    turns = np.arange(PLACES) * 2.399963  # the golden angle: no two alike
    away = np.linspace(0.5 * extent + 3, 1.2 * extent + 48, PLACES)
    rows = y + np.rint(away * np.sin(turns)).astype(int)[:, None]
    columns = x + np.rint(away * np.cos(turns)).astype(int)[:, None]
    return _surface(scene, rows, columns, of)


def _surface(scene: Scene, rows: np.ndarray, columns: np.ndarray, of: Field | None = None) -> tuple[Field, Field]:
    """What an eye compares [P,N,3] at places [P,N], or values `of` [H,W,3]; and 1 where surface is, else 0, [P,N,1]."""
    height, width = scene.size
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    if scene.body is not None:
        inside &= scene.body[rows, columns]
    values = scene.rgb[rows, columns] @ SEEN if of is None else of[rows, columns]
    return values, inside[..., None].astype(np.float32)


def filled(mask: Mask) -> Mask:
    """The pixels [H,W] as somebody would mark them: with the narrow gaps between them."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    reach = max(round(0.012 * mask.size**0.5), 1)
    around = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2 * reach)
    box = ImageFilter.BoxBlur(reach)
    wide = np.asarray(Image.fromarray(around.astype(np.uint8) * 255).filter(box)) > 0
    closed = np.asarray(Image.fromarray(wide.astype(np.uint8) * 255).filter(box)) == 255
    whole = mask.copy()
    whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] |= closed[
        2 * reach : -2 * reach, 2 * reach : -2 * reach
    ]
    return whole
