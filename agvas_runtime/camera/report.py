"""What a playback says of itself: a live table, overlay pictures, percentiles at the end, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from agvas_runtime import encoding
from agvas_runtime.camera.player import Shot
from agvas_runtime.console import one_line
from agvas_runtime.files import write_whole
from agvas_runtime.frames import read_image
from agvas_runtime.overlay import draw_overlay
from agvas_runtime.verdict import Verdict

STAGES = {
    "decode": "decode",
    "preprocess": "prep",
    "encoders": "enc",
    "spam": "spam",
    "llm": "llm",
    "text": "text",
    "decoder": "agmd",
    "postprocess": "post",
    "total": "total",
    "server": "server",
    "round_trip": "trip",
}
"""Stage of the reply to the head of its column."""

COLOURS = {Verdict.PASS: "green", Verdict.REJECT: "red", Verdict.NO_ANSWER: "yellow"}
NAME_WIDTH = 18


class LiveTable:
    """Prints one line a frame, as it is answered; a head comes first."""

    def __init__(self, console: Console) -> None:
        self._console = console
        head = f"{'#':>4} {'frame':<{NAME_WIDTH}} {'verdict':<9} {'area px':>8} {'area %':>6} {'conf':>5}"
        stages = "".join(f" {name:>6}" for name in STAGES.values())
        self._print(Text(f"{head}{stages}  ms", style="bold"))

    def add(self, shot: Shot) -> None:
        """Print a frame's line."""
        line = Text(f"{shot.sequence:>4} {_short(shot.path.name):<{NAME_WIDTH}} ")
        line.append(f"{shot.verdict.value:<9}", style=COLOURS[shot.verdict])
        if shot.reply is None:
            line.append(f" {one_line(str(shot.error))}")
        else:
            area = shot.reply.defect_area_px
            share = 100 * area / (shot.reply.size[0] * shot.reply.size[1])
            line.append(f" {area:>8} {share:>6.2f} {shot.reply.confidence:>5.3f}")
            line.append("".join(f" {ms:>6.1f}" for ms in stage_times(shot).values()))
        self._print(line)

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)


def stage_times(shot: Shot) -> dict[str, float]:
    """Milliseconds by stage, in the order of the columns; nan for a stage that the server does not name."""
    if shot.reply is None:
        return {}
    times = {**shot.reply.timings_ms, "round_trip": shot.reply.round_trip_ms}
    return {stage: times.get(stage, float("nan")) for stage in STAGES}


def percentiles(shots: Sequence[Shot]) -> dict[str, dict[str, float]]:
    """p50 and p99 by stage, in milliseconds, over the frames that were answered."""
    times = [stage_times(shot) for shot in shots if shot.reply is not None]
    if not times:
        return {}
    table = np.array([list(row.values()) for row in times])
    p50, p99 = np.percentile(table, [50, 99], axis=0)
    return {stage: {"p50": float(p50[i]), "p99": float(p99[i])} for i, stage in enumerate(STAGES)}


def print_summary(console: Console, shots: Sequence[Shot], seconds: float) -> None:
    """Print the verdicts' counts, the rate and the percentiles below the table's columns."""
    space = " " * (4 + 1 + NAME_WIDTH + 1 + 9 + 1 + 8 + 1 + 6 + 1)
    found = percentiles(shots)
    for name in ("p50", "p99") if found else ():
        values = "".join(f" {found[stage][name]:>6.1f}" for stage in STAGES)
        console.print(Text(f"{space}{name:>5}{values}", style="bold"), soft_wrap=True, highlight=False)
    counts = ", ".join(f"{sum(s.verdict is v for s in shots)} {v.value}" for v in Verdict)
    rate = f"{len(shots) / seconds:.1f} frames/s" if seconds > 0 else ""
    late = sum(shot.late_ms > 1 for shot in shots)
    text = f"{len(shots)} frames: {counts}; {rate}, {late} sent late"
    if found:
        trip = found["round_trip"]
        text += f"; round trip p50 {trip['p50']:.1f} ms, p99 {trip['p99']:.1f} ms"
    console.print(text, soft_wrap=True, highlight=False)


def write_overlay(folder: Path, shot: Shot, name: str) -> Path | None:
    """Write `<name>_overlay.png`; None for a frame without an answer."""
    reply = shot.reply
    if reply is None or reply.mask is None:
        return None
    target = folder / f"{name}_overlay.png"
    text = f"{reply.defect_area_px} px  {reply.confidence:.2f}"
    picture = draw_overlay(read_image(shot.path), reply.mask, reply.regions, reply.verdict, text)
    write_whole(target, encoding.png(picture))
    return target


def as_json(shots: Sequence[Shot], seconds: float) -> dict[str, Any]:
    """The whole playback as one JSON-able document."""
    return {
        "frames": [_frame_json(shot) for shot in shots],
        "seconds": seconds,
        "latency_ms": percentiles(shots),
        "verdicts": {verdict.value: sum(shot.verdict is verdict for shot in shots) for verdict in Verdict},
    }


def _frame_json(shot: Shot) -> dict[str, Any]:
    row: dict[str, Any] = {"sequence": shot.sequence, "file": str(shot.path), "verdict": shot.verdict.value}
    if shot.reply is None:
        return {**row, "error": str(shot.error)}
    return {
        **row,
        "gate": shot.reply.gate,
        "reason": shot.reply.reason,
        "answer": shot.reply.answer,
        "confidence": shot.reply.confidence,
        "defect_area_px": shot.reply.defect_area_px,
        "regions": [asdict(region) for region in shot.reply.regions],
        "timings_ms": stage_times(shot),
    }


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 7]}..{name[-5:]}"
