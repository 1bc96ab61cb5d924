"""What the lines say to a person while they run, and at their end."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from agvas_runtime.camera.gate import Decision
from agvas_runtime.camera.line import Line
from agvas_runtime.console import one_line

RATE_S = 5.0
"""The rate of parts is that of the last seconds."""
COLOURS = {"pass": "green", "reject": "red", "stop": "bold red"}
HEADS = ("camera", "parts", "/s", "pass", "reject", "stop", "no answer", "late", "p50 ms", "p99 ms", "last", "now")


class Board:
    """A table with a row a camera, made anew whenever it is drawn."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines
        self._times: dict[str, deque[float]] = {line.gate.camera_id: deque(maxlen=10_000) for line in lines}
        self._last: dict[str, Decision] = {}

    def add(self, decision: Decision) -> None:
        """A part was decided."""
        self._times[decision.camera_id].append(monotonic())
        self._last[decision.camera_id] = decision

    def __rich__(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in HEADS:
            table.add_column(head, justify="left" if head in ("camera", "last", "now") else "right", no_wrap=True)
        for line in self._lines:
            table.add_row(*self._row(line))
        return table

    def _row(self, line: Line) -> list[Text]:
        gate, now = line.gate, monotonic()
        recent = sum(each > now - RATE_S for each in list(self._times[gate.camera_id]))
        p50, p99 = percentiles(list(gate.latencies_ms))
        last = self._last.get(gate.camera_id)
        numbers = [gate.parts, f"{recent / RATE_S:.1f}", *(gate.gates[each] for each in ("pass", "reject", "stop"))]
        numbers += [sum(gate.statuses.values()) - gate.statuses["ok"], gate.late, f"{p50:.0f}", f"{p99:.0f}"]
        told = Text("") if last is None else Text(f"{last.gate} ({last.status})", style=COLOURS.get(last.gate, ""))
        return [Text(gate.camera_id), *(Text(str(each)) for each in numbers), told, _state(line)]


def _state(line: Line) -> Text:
    if line.ended.is_set():
        return Text("ended")
    missing = [what for what, up in (("camera", line.camera_up), ("server", line.server_up)) if not up]
    return Text(f"no {', no '.join(missing)}", style="yellow") if missing else Text("running", style="green")


def percentiles(latencies_ms: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds; nan of nothing."""
    if not latencies_ms:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return float(p50), float(p99)


def summary(line: Line) -> dict[str, Any]:
    """What a line did, as a JSON-able document."""
    gate = line.gate
    p50, p99 = percentiles(list(gate.latencies_ms))
    return {
        "event": "summary",
        "camera": gate.camera_id,
        "parts": gate.parts,
        "gates": {name: gate.gates[name] for name in ("pass", "reject", "stop")},
        "statuses": dict(gate.statuses),
        "late_answers": gate.late,
        "latency_ms": {"p50": p50, "p99": p99},
    }


def summary_line(line: Line) -> str:
    """The same for a person."""
    found = summary(line)
    gates = ", ".join(f"{count} {name}" for name, count in found["gates"].items() if count) or "nothing decided"
    statuses = ", ".join(f"{count} {name}" for name, count in sorted(found["statuses"].items()) if name != "ok")
    text = f"{found['camera']}: {found['parts']} parts: {gates}"
    text += f"; without a result: {statuses}" if statuses else ""
    text += f"; {found['late_answers']} answers came too late" if found["late_answers"] else ""
    if found["parts"]:
        text += "; decided after p50 {p50:.1f} ms, p99 {p99:.1f} ms".format(**found["latency_ms"])
    return one_line(text)
