"""Pictures of an evaluation: image, ground truth outlined, heat map side by side; a contact sheet per category."""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agvas_runtime.evaluate.score import Scored
from agvas_runtime.files import write_whole
from agvas_runtime.frames import read_image

PANEL_PX, SHEET_PANEL_PX, LARGEST_ZOOM = 512, 160, 3.0
"""Longest side of a panel in a picture and on the sheet; small images are enlarged at most threefold."""
SHEET_COLUMNS, SHEET_IMAGES = 3, 12
GAP_PX, CAPTION_PX = 4, 18
OUTLINE = (0, 230, 80)
RAMP = np.array([(0, 0, 90), (0, 110, 230), (60, 210, 160), (250, 210, 40), (220, 20, 20)], np.float32)
"""Colours of the probabilities 0, 0.25, 0.5, 0.75 and 1."""


@dataclass
class Pictures:
    """Writes the pictures of one category, and its contact sheet at the end."""

    folder: Path
    total: int
    """Images that the category will bring: the sheet shows at most 12, evenly spread."""
    _seen: int = 0
    _thumbs: list[Image.Image] = field(default_factory=list)

    def add(self, scored: Scored) -> None:
        """Write one image's picture. Raises EngineError when it cannot be written."""
        image = read_image(scored.item.image)
        name = file_name(f"{self._seen:04d}_{scored.item.kind}_{scored.item.image.stem}")
        write_whole(self.folder / f"{name}.jpg", _jpeg(draw_strip(scored, image, PANEL_PX)))
        if self._seen in spread(self.total, SHEET_IMAGES):
            self._thumbs.append(draw_strip(scored, image, SHEET_PANEL_PX))
        self._seen += 1

    def finish(self) -> None:
        """Write the contact sheet."""
        if self._thumbs:
            write_whole(self.folder.with_name(f"{self.folder.name}_sheet.jpg"), _jpeg(_sheet(self._thumbs)))


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the numbers 0..total-1, evenly spread, ascending."""
    return list(range(total)) if total <= count else [i * total // count for i in range(count)]


def file_name(text: str) -> str:
    """The text as one harmless file name."""
    return re.sub(r"[^\w.-]+", "_", text).lstrip(".") or "_"


def draw_strip(scored: Scored, image: NDArray[np.uint8], panel_px: int) -> Image.Image:
    """Image (uint8 [H,W,3]), ground truth outlined, heat map side by side under one caption."""
    scale = min(LARGEST_ZOOM, panel_px / max(image.shape[:2]))
    panels = [image, outlined(image, scored.truth), heat(image, scored.probability)]
    scaled = [_scaled(Image.fromarray(panel), scale) for panel in panels]
    width = max(sum(panel.width + GAP_PX for panel in scaled), 3 * (SHEET_PANEL_PX + GAP_PX))
    strip = Image.new("RGB", (width, scaled[0].height + CAPTION_PX), "white")
    left = 0
    for panel in scaled:
        strip.paste(panel, (left, CAPTION_PX))
        left += panel.width + GAP_PX
    caption = f"{scored.item.kind}/{scored.item.image.name}  {scored.outcome}  max {scored.probability.max():.2f}"
    ImageDraw.Draw(strip).text((2, 2), caption, "black", ImageFont.load_default(12))
    return strip


def outlined(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image (uint8 [H,W,3]) with the mask's border (bool [H,W]) drawn one or more pixels wide."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = image.copy()
    drawn[mask & ~inner] = OUTLINE
    return drawn


def heat(image: NDArray[np.uint8], probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The probability (float32 [H,W]) as colours over the greyed image (uint8 [H,W,3])."""
    stops = np.linspace(0, 1, len(RAMP))
    table = np.stack([np.interp(np.linspace(0, 1, 256), stops, RAMP[:, channel]) for channel in range(3)], 1)
    colours = table.astype(np.float32)[(probability * 255).astype(np.uint8)]
    grey = image.mean(axis=2, dtype=np.float32)[:, :, None]
    blended: NDArray[np.uint8] = (0.35 * grey + 0.65 * colours).astype(np.uint8)
    return blended


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def _sheet(thumbs: list[Image.Image]) -> Image.Image:
    width = max(thumb.width for thumb in thumbs) + GAP_PX
    height = max(thumb.height for thumb in thumbs) + GAP_PX
    sheet = Image.new("RGB", (width * SHEET_COLUMNS, height * -(-len(thumbs) // SHEET_COLUMNS)), "white")
    for index, thumb in enumerate(thumbs):
        sheet.paste(thumb, (index % SHEET_COLUMNS * width, index // SHEET_COLUMNS * height))
    return sheet


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
