"""A contact sheet: samples side by side, defects outlined, to be looked at."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from agvas_train.data.synth.notes import Sample


def outlined(sample: Sample) -> Image.Image:
    """The image with a thin outline just outside its mask."""
    grown = np.pad(sample.mask, 2)
    near = np.zeros_like(sample.mask)
    for dy in range(5):
        for dx in range(5):
            near |= grown[dy : dy + sample.mask.shape[0], dx : dx + sample.mask.shape[1]]
    inner = np.pad(sample.mask, 1)
    close = np.zeros_like(sample.mask)
    for dy in range(3):
        for dx in range(3):
            close |= inner[dy : dy + sample.mask.shape[0], dx : dx + sample.mask.shape[1]]
    shown = sample.image.copy()
    shown[near & ~close] = (255, 40, 40)
    return Image.fromarray(shown)


def contact_sheet(samples: Sequence[Sample], columns: int = 8, cell_px: int = 220, outline: bool = True) -> Image.Image:
    """All samples on one picture, each with its surface and defects written below."""
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * cell_px, rows * (cell_px + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for at, sample in enumerate(samples):
        x, y = at % columns * cell_px, at // columns * (cell_px + 14)
        picture = outlined(sample) if outline else Image.fromarray(sample.image)
        picture.thumbnail((cell_px - 4, cell_px - 4))
        sheet.paste(picture, (x, y))
        kinds = ", ".join(note.kind for note in sample.defects) or "normal"
        draw.text((x, y + cell_px - 2), f"{sample.surface.name}: {kinds}"[:40], "black")
    return sheet
