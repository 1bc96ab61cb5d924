"""A picture of drawn samples, to be looked at: the image with its mask, and what is asked and answered about it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agvas_runtime.errors import InputError
from agvas_runtime.files import check_place, write_whole
from agvas_runtime.overlay import OPACITY, TINT
from agvas_train.data.mixture.draw import Drawn

COLUMNS, PICTURE, WORDS, GAP, FONT = 2, 260, 380, 10, 13
"""Cells side by side, and sides in pixels: of a picture, of the words beside it, between them; size of the letters."""
LETTERS, LINES = 56, 16
"""In a line, and in a cell."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
IGNORED = np.array([120, 120, 120], np.float32)


def check_sheet(file: Path) -> None:
    """Look before long work whether a sheet can be written there. Raises InputError."""
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"{file}: found the suffix {file.suffix!r}, expected one of {', '.join(FORMATS)}")
    check_place(file)


def write_sheet(drawn: Sequence[Drawn], file: Path) -> None:
    """Write the samples as one picture; the suffix says its format. Raises EngineError where that fails."""
    held = BytesIO()
    sheet(drawn).save(held, FORMATS[file.suffix.lower()])
    write_whole(file, held.getvalue())


def sheet(drawn: Sequence[Drawn]) -> Image.Image:
    """The samples in rows of two: masks are red, pixels that count neither way grey."""
    width, height = PICTURE + WORDS + 3 * GAP, PICTURE + GAP
    canvas = Image.new("RGB", (COLUMNS * width, -(-len(drawn) // COLUMNS) * height + GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=FONT)
    for number, each in enumerate(drawn):
        left, top = number % COLUMNS * width + GAP, number // COLUMNS * height + GAP
        canvas.paste(_picture(each), (left, top))
        draw.multiline_text((left + PICTURE + GAP, top), _words(each), "black", font)
    return canvas


def _picture(drawn: Drawn) -> Image.Image:
    """The image as large as its cell allows, small ones enlarged."""
    image, turn = drawn.image.astype(np.float32), drawn.turn
    for mask, tint in ((turn.ignore, IGNORED), (turn.mask, TINT)):
        if mask is not None:
            image[mask] = image[mask] * (1 - OPACITY) + tint * OPACITY
    scale = PICTURE / max(image.shape[:2])
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    how = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    return Image.fromarray(image.astype(np.uint8)).resize(size, how)


def _words(drawn: Drawn) -> str:
    turn = drawn.turn
    said = [f"{drawn.source.set} {drawn.source.index}, {turn.task.value}"]
    for question, answer in ((turn.instruction, turn.answer), *turn.more):
        said += [f"> {question}", answer]
    lines = [line for text in said for line in textwrap.wrap(text, LETTERS)]
    return "\n".join(lines if len(lines) <= LINES else [*lines[: LINES - 1], "..."])
