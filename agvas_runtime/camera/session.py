"""One playback from beginning to end: table, overlays, summary. The command and the demo both run this."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter

from agvas_runtime import console
from agvas_runtime.camera import report
from agvas_runtime.camera.player import Playback, Shot, play
from agvas_runtime.client import Client
from agvas_runtime.files import make_folder, result_names


def run_playback(client: Client, playback: Playback, out: Path | None, *, as_json: bool) -> list[Shot]:
    """Play, print a live table (or one JSON document at the end), write one overlay a file into `out`.

    What was played is reported however it ends. The shots are without masks.
    """
    names = dict(zip(playback.frames, result_names([(p.parent, p) for p in playback.frames]), strict=True))
    if out is not None:
        make_folder(out)
    screen = console.output()
    table = None if as_json else report.LiveTable(screen)
    shots: list[Shot] = []
    started = perf_counter()
    try:
        for shot in play(client, replace(playback, masks=out is not None)):
            shots.append(shot.without_mask())
            if table is not None:
                table.add(shot)
            if out is not None and shot.sequence < len(playback.frames):
                report.write_overlay(out, shot, names[shot.path])
    finally:
        seconds = perf_counter() - started
        if as_json:
            console.print_json(report.as_json(shots, seconds))
        else:
            report.print_summary(screen, shots, seconds)
    return shots
