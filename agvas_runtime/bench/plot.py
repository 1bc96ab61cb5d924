"""The measurement as a picture: one bar a contender, its stages' medians end to end. Drawn with PIL alone."""

import io
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from agvas_runtime.bench.latency import WHOLE_CALL

WIDTH, BAR, GAP, MARGIN = 900, 34, 44, 20
COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#9c755f", "#bab0ac", "#86bcb6")
REST = "#d8d8d8"


def draw_plot(report: dict[str, Any]) -> bytes:
    """A PNG of the report's contenders: stages (p50) in colour, what is left of the call's p50 in grey."""
    contenders = report["contenders"]
    names = _stage_names(contenders)
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    longest = max(each["stages_ms"][WHOLE_CALL]["p50"] for each in contenders)
    scale = (WIDTH - 2 * MARGIN - 90) / longest
    height = MARGIN * 2 + 30 + len(contenders) * (BAR + GAP) + 24 * -(-len(names) // 5)
    image = Image.new("RGB", (WIDTH, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    machine = report["machine"]
    head = f"ms per frame (p50), {report['frames']} frames, {machine['cpu']}, {machine['cores_usable']} cores"
    draw.text((MARGIN, MARGIN), head, "black", font)
    top = MARGIN + 30
    for each in contenders:
        draw.text((MARGIN, top), each["name"], "black", font)
        whole = each["stages_ms"][WHOLE_CALL]["p50"]
        left, bar = float(MARGIN), (top + 20, top + 20 + BAR)
        draw.rectangle((left, bar[0], left + whole * scale, bar[1]), fill=REST)
        for name in names:
            width = each["stages_ms"].get(name, {"p50": 0.0})["p50"] * scale
            if width >= 1:
                draw.rectangle((left, bar[0], left + width, bar[1]), fill=colours[name])
            left += width
        draw.text((MARGIN + whole * scale + 6, bar[0] + 8), f"{whole:.2f} ms", "black", font)
        top += BAR + GAP
    for index, name in enumerate([*names, "rest"]):
        x, y = MARGIN + index % 5 * 170, top + index // 5 * 24
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=colours.get(name, REST))
        draw.text((x + 20, y), name, "black", font)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _stage_names(contenders: list[dict[str, Any]]) -> list[str]:
    """Every stage once, in the order of the first contender that has it; sums are no stages."""
    seen = dict.fromkeys(stage for each in contenders for stage in each["stages_ms"])
    return [stage for stage in seen if stage not in (WHOLE_CALL, "total")]
