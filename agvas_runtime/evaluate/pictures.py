"""Pictures of an evaluation: image, ground truth outlined, heat map with the mask outlined, side by side; sheets.

A category has two sheets: some of its images evenly spread, and those that went worst.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from agvas_runtime.evaluate.score import Compared, Record
from agvas_runtime.files import write_whole
from agvas_runtime.frames import read_image

PANEL_PX, SHEET_PANEL_PX, LARGEST_ZOOM = 512, 160, 3.0
"""Longest side of a panel in a picture and on the sheet; small images are enlarged at most threefold."""
SHEET_COLUMNS, SHEET_IMAGES = 3, 12
GAP_PX, CAPTION_PX = 4, 18
LONGEST_NAME = 200
"""Bytes; file systems take 255, suffix and all."""
TRUE_OUTLINE, MASK_OUTLINE = (0, 230, 80), (255, 255, 255)
RAMP = np.array([(0, 0, 90), (0, 110, 230), (60, 210, 160), (250, 210, 40), (220, 20, 20)], np.float32)
"""Colours of the probabilities 0, 0.25, 0.5, 0.75 and 1."""


def picture_name(index: int, record: Record) -> str:
    """The file name of an image's picture in its category's folder."""
    return file_name(f"{index:04d}_{record.kind}_{Path(record.name).stem}") + ".jpg"


def write_picture(path: Path, image: NDArray[np.uint8], record: Record, compared: Compared) -> None:
    """Write one image's picture; the image is uint8 [H,W,3]. Raises EngineError when it cannot be written."""
    if image.shape[:2] != record.size:  # a fixed size is scored
        image = np.asarray(Image.fromarray(image).resize(record.size[::-1], Image.Resampling.BILINEAR))
    write_whole(path, _jpeg(_captioned(draw_panels(image, compared), _caption(record))))


def write_sheets(folder: Path, records: Sequence[Record]) -> None:
    """Write the two sheets of a category beside the folder of its pictures, from these pictures."""
    worst = sorted(range(len(records)), key=lambda index: -_badness(records[index]))[:SHEET_IMAGES]
    sheets = {"sheet": spread(len(records), SHEET_IMAGES), "worst": [i for i in worst if _badness(records[i]) > 0]}
    for name, chosen in sheets.items():
        if chosen:
            thumbs = [_thumb(folder / picture_name(index, records[index]), records[index]) for index in chosen]
            write_whole(folder.with_name(f"{folder.name}_{name}.jpg"), _jpeg(_sheet(thumbs)))


def spread(total: int, count: int) -> list[int]:
    """At most `count` of the numbers 0..total-1, evenly spread, ascending."""
    return list(range(total)) if total <= count else [i * total // count for i in range(count)]


def file_name(text: str) -> str:
    """The text as one harmless file name, cut to LONGEST_NAME bytes."""
    harmless = re.sub(r"[^\w.-]+", "_", text).lstrip(".").encode()[:LONGEST_NAME]
    return harmless.decode(errors="ignore") or "_"


def folder_names(categories: Iterable[str]) -> dict[str, str]:
    """Each category's folder; those whose names would be one folder, where capitals count or not, get a number."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for category in categories:
        plain = name = file_name(category)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names[category] = name
    return names


def draw_panels(image: NDArray[np.uint8], compared: Compared) -> Image.Image:
    """Image (uint8 [H,W,3]), ground truth outlined, heat map with the mask outlined, side by side."""
    heated = outlined(heat(image, compared.probability), compared.mask, MASK_OUTLINE)
    panels = [image, outlined(image, compared.truth, TRUE_OUTLINE), heated]
    scaled = [_scaled(Image.fromarray(panel), _zoom(image.shape[:2])) for panel in panels]
    joined = Image.new("RGB", (sum(panel.width + GAP_PX for panel in scaled), scaled[0].height), "white")
    for index, panel in enumerate(scaled):
        joined.paste(panel, (index * (panel.width + GAP_PX), 0))
    return joined


def outlined(image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The image (uint8 [H,W,3]) with the mask's border (bool [H,W]) drawn one or more pixels wide."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = image.copy()
    drawn[mask & ~inner] = colour
    return drawn


def heat(image: NDArray[np.uint8], probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The probability (float32 [H,W]) as colours over the greyed image (uint8 [H,W,3])."""
    stops = np.linspace(0, 1, len(RAMP))
    table = np.stack([np.interp(np.linspace(0, 1, 256), stops, RAMP[:, channel]) for channel in range(3)], 1)
    colours = table.astype(np.float32)[(probability.clip(0, 1) * 255).astype(np.uint8)]
    grey = image.mean(axis=2, dtype=np.float32)[:, :, None]
    blended: NDArray[np.uint8] = (0.35 * grey + 0.65 * colours).astype(np.uint8)
    return blended


def _badness(record: Record) -> float:
    """How wrong the mask is: of a defective image 1 - IoU, of a normal one the share of it that the mask covers."""
    if record.anomalous:
        return 0.0 if record.iou is None else 1 - record.iou
    return record.mask_px / (record.size[0] * record.size[1]) if record.anomalous is False else 0.0


def _zoom(size: tuple[int, ...]) -> float:
    return min(LARGEST_ZOOM, PANEL_PX / max(size))


def _caption(record: Record) -> str:
    iou = "" if record.iou is None else f"  IoU {record.iou:.2f}"
    return f"{record.kind}/{Path(record.name).name}  {record.outcome}  max {record.score:.2f}{iou}"


def _captioned(panels: Image.Image, caption: str) -> Image.Image:
    strip = Image.new("RGB", (max(panels.width, 3 * (SHEET_PANEL_PX + GAP_PX)), panels.height + CAPTION_PX), "white")
    strip.paste(panels, (0, CAPTION_PX))
    ImageDraw.Draw(strip).text((2, 2), caption, "black", ImageFont.load_default(12))
    return strip


def _thumb(path: Path, record: Record) -> Image.Image:
    """The picture again, smaller, its caption as large as before."""
    picture = Image.fromarray(read_image(path))
    panels = picture.crop((0, CAPTION_PX, picture.width, picture.height))
    shown = max(record.size) * _zoom(record.size)
    return _captioned(_scaled(panels, min(1.0, SHEET_PANEL_PX / shown)), _caption(record))


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
