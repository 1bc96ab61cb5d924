"""The reject rate of normal images against the threshold, for some areas, with the chosen point. PIL alone."""

from __future__ import annotations

import io
import math
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 190, 60, 60
GRID, WANTED = "#e4e4e4", "#888888"
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2")
CHOSEN = "#e15759"
DOT = 5


def draw_plot(report: dict[str, Any]) -> bytes:
    """A PNG of a calibration's report; rates are logarithmic down to one image of twice as many, and then 0."""
    rates, n = report["reject_rate"], report["images"]
    floor = 0.5 / n
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)

    def at(threshold: float, rate: float) -> tuple[float, float]:
        above = math.log(max(rate, floor) / floor) / math.log(1 / floor)
        return LEFT + threshold * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - above * (HEIGHT - TOP - BOTTOM)

    for tenth in range(0, 11, 2):
        x, y = at(tenth / 10, 0)
        draw.line((x, TOP, x, y), GRID)
        draw.text((x, y + 8), f"{tenth / 10:g}", "black", font, anchor="ma")
    for rate in (0.0, *(10.0**power for power in range(math.ceil(math.log10(floor * 1.2)), 1))):
        x, y = at(0, rate)
        draw.line((x, y, WIDTH - RIGHT, y), GRID)
        draw.text((x - 8, y), f"{100 * rate:g} %", "black", font, anchor="rm")
    draw.text((LEFT, 20), f"Rejected share of {n} normal images", "black", font)
    draw.text(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 26), "threshold", "black", font, anchor="ma")
    wanted = report["false_reject_wanted"]
    if wanted > floor:
        draw.line((*at(0, wanted), *at(1, wanted)), WANTED)
        x, y = at(1, wanted)
        draw.text((x + 6, y), f"wanted {100 * wanted:g} %", WANTED, font, anchor="lm")
    for index, (area, curve) in enumerate(rates["by_min_area_px"].items()):
        colour = COLOURS[index % len(COLOURS)]
        points = [at(x, y) for x, y in zip(rates["thresholds"], curve, strict=True)]
        draw.line(points, colour, 2)
        top = TOP + 24 * index
        draw.rectangle((WIDTH - RIGHT + 24, top + 2, WIDTH - RIGHT + 38, top + 16), fill=colour)
        draw.text((WIDTH - RIGHT + 44, top), f"from {area} px", "black", font)
    x, y = at(report["threshold"], report["rejects"] / n)
    draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), CHOSEN)
    chosen = f"{report['threshold']:g}, {report['min_area_px']} px"
    draw.text((x, y - 10), chosen, CHOSEN, font, anchor="rs" if x > WIDTH / 2 else "ls")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
