"""Overlay pictures: the frame, its mask in red, boxes around the regions, and a line of text above. For people only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agvas_runtime.regions import Region
from agvas_runtime.verdict import Verdict

TINT = np.array([230, 30, 30], np.float32)
OPACITY = 0.45
OUTLINE = (255, 0, 0)
BOX = (255, 220, 0)
MAX_BOXES = 20
BANNERS = {Verdict.PASS: (24, 120, 60), Verdict.REJECT: (170, 30, 30), Verdict.NO_ANSWER: (110, 110, 110)}


def draw_overlay(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], regions: Sequence[Region], verdict: Verdict, text: str
) -> NDArray[np.uint8]:
    """Draw a result over its frame.

    Args:
        image: uint8 RGB [H, W, 3].
        mask: bool [H, W].
        regions: the largest 20 get a box.
        verdict: gives the banner's colour.
        text: one line for the banner; cut where the picture ends.

    Returns:
        uint8 RGB [H + banner, W, 3].
    """
    picture = image.copy()
    picture[mask] = (image[mask] * (1 - OPACITY) + TINT * OPACITY).astype(np.uint8)
    picture[mask & ~_eroded(mask)] = OUTLINE
    height, width = mask.shape
    font_size = max(10, min(width, height) // 24)
    banner = font_size * 3 // 2
    canvas = Image.new("RGB", (width, height + banner), BANNERS[verdict])
    canvas.paste(Image.fromarray(picture), (0, banner))
    draw = ImageDraw.Draw(canvas)
    line = max(1, min(width, height) // 256)
    for region in regions[:MAX_BOXES]:
        x0, y0, x1, y1 = region.box
        left, top = max(x0 - line, 0), max(y0 - line, 0)
        right, bottom = min(x1 - 1 + line, width - 1), min(y1 - 1 + line, height - 1)
        draw.rectangle((left, top + banner, right, bottom + banner), outline=BOX, width=line)
    font = ImageFont.load_default(size=font_size)
    draw.text((font_size // 2, banner // 2), f"{verdict.value}  {text}", fill="white", font=font, anchor="lm")
    return np.asarray(canvas)


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its border pixels: those with a 4-neighbour outside the mask or outside the picture."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
