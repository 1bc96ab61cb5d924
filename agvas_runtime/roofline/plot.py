"""The report as a picture: the machine's roofs, and one point a part. Drawn with PIL alone."""

from __future__ import annotations

import io
import math
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 30, 60, 60
GRID, ROOF, POINT = "#e4e4e4", "#4e79a7", "#e15759"
DOT = 4
PLACES = ((9, 0, "lm"), (-9, 0, "rm"), (0, 8, "ma"), (0, -8, "md"), (9, 16, "lm"), (9, -16, "lm"), (0, 26, "ma"))
"""Where a point's name may stand, best first: how far from it, and which of its edges is meant."""


def draw_plot(report: dict[str, Any]) -> bytes:
    """A PNG: FLOP per byte against GFLOP/s, both logarithmic; memory's slope and a flat roof for each precision."""
    peaks, parts = report["peaks"], report["parts"]
    memory = peaks["memory_bytes_per_s"] / 1e9
    roofs = {"8 bits": peaks["int8_flops_per_s"] / 1e9, "float32": peaks["fp32_flops_per_s"] / 1e9}
    points = [(part["name"], part["flops_per_byte"], part["flops_per_s"] / 1e9) for part in parts]
    across = _decades([x for _, x, _ in points] + [roof / memory for roof in roofs.values()])
    up = _decades([y for *_, y in points] + list(roofs.values()))
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)

    def at(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - across[0]) / (across[1] - across[0])
        above = (math.log10(y) - up[0]) / (up[1] - up[0])
        return LEFT + right * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - above * (HEIGHT - TOP - BOTTOM)

    for power in range(across[0], across[1] + 1):
        x, y = at(10.0**power, 10.0 ** up[0])
        draw.line((x, TOP, x, y), GRID)
        draw.text((x, y + 8), f"{10.0**power:g}", "black", font, anchor="ma")
    for power in range(up[0], up[1] + 1):
        x, y = at(10.0 ** across[0], 10.0**power)
        draw.line((x, y, WIDTH - RIGHT, y), GRID)
        draw.text((x - 8, y), f"{10.0**power:g}", "black", font, anchor="rm")
    machine = report["machine"]
    head = f"GFLOP/s of {report['bundle']}, {machine['cpu']}, threads: {report['threads']}"
    draw.text((LEFT, 20), head, "black", font)
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 26), "FLOP per byte", "black", font, anchor="ma")
    # memory's slope begins at the picture's left or lower edge, whichever it meets, and ends under the highest roof
    begin, ridge = max(10.0 ** across[0], 10.0 ** up[0] / memory), max(roofs.values()) / memory
    draw.line((*at(begin, begin * memory), *at(ridge, ridge * memory)), ROOF, 2)
    middle = math.sqrt(begin * ridge)
    draw.text(at(middle, middle * memory), f"memory {memory:.0f} GB/s  ", ROOF, font, anchor="rb")
    for name, roof in roofs.items():
        draw.line((*at(roof / memory, roof), *at(10.0 ** across[1], roof)), ROOF, 2)
        x, y = at(10.0 ** across[1], roof)
        draw.text((x, y - 4), f"{name} {roof:.0f}", ROOF, font, anchor="rb")
    spots = [at(intensity, speed) for _, intensity, speed in points]
    taken = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in spots]
    for (name, *_), (x, y) in zip(points, spots, strict=True):
        draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), POINT)
        boxes = [draw.textbbox((x + dx, y + dy), name, font, anchor=anchor) for dx, dy, anchor in PLACES]
        box = next((box for box in boxes if box[2] < WIDTH and not any(_overlap(box, t) for t in taken)), boxes[0])
        taken.append(box)
        draw.text(box[:2], name, "black", font, anchor="lt")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _decades(values: list[float]) -> tuple[int, int]:
    """The powers of ten around all values, with room."""
    return math.floor(math.log10(min(values) / 1.1)), math.ceil(math.log10(max(values) * 1.1))


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
