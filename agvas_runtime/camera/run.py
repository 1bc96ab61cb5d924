"""Several cameras at work until they have no more parts or somebody says stop: their outputs, table and summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from rich.live import Live

from agvas_runtime import console
from agvas_runtime.camera.connection import AnyClient
from agvas_runtime.camera.gate import Decision, Gate
from agvas_runtime.camera.line import Line, LinePlan, Turn
from agvas_runtime.camera.outputs import (
    COMMAND_S,
    END_S,
    JsonLines,
    OnReject,
    Rejects,
    Worker,
    decision_event,
    is_reject,
    without_pictures,
)
from agvas_runtime.camera.source import Source
from agvas_runtime.camera.watch import Board, summary, summary_line
from agvas_runtime.enums import GateAction
from agvas_runtime.server.signals import heard

JOIN_S = 5.0
MOST_EVENTS, MOST_PICTURES, MOST_COMMANDS = 10_000, 8, 64
"""That wait to be written, drawn, run; further ones are skipped and counted."""


@dataclass(frozen=True)
class Outputs:
    """Where decisions go."""

    as_json: bool = False
    """JSON lines on stdout instead of a table."""
    jsonl: Path | None = None
    rejects: Path | None = None
    keep: int = 1000
    on_reject: str | None = None


class Office:
    """The workers behind the gates of all cameras; raises InputError for outputs that cannot be."""

    def __init__(self, outputs: Outputs) -> None:
        self.board: Board | None = None
        paths = ([None] if outputs.as_json else []) + ([outputs.jsonl] if outputs.jsonl else [])
        files = [JsonLines(path) for path in paths]
        self._files: list[Worker[str]] = [Worker("events", file, MOST_EVENTS) for file in files]
        """Each has its own: one that nobody reads does not hold up the other."""
        self._rejects = self._command = self._on_reject = None
        if outputs.rejects is not None:
            self._rejects = Worker("--rejects", Rejects(outputs.rejects, outputs.keep), MOST_PICTURES)
        if outputs.on_reject is not None:
            self._on_reject = OnReject(outputs.on_reject)
            self._command = Worker("--on-reject", self._on_reject, MOST_COMMANDS)
        self._events: Worker[Decision | Turn | dict[str, Any]] = Worker("events", self._write, MOST_EVENTS)

    def decided(self, decision: Decision) -> None:
        """A part was decided: start whatever follows."""
        told = without_pictures(decision)  # thousands may wait to be written
        self._events.offer(told)
        if self._command is not None and decision.gate != "pass":
            self._command.offer(told)
        if self._rejects is not None and is_reject(decision):
            self._rejects.offer(decision)

    def tell(self, event: Turn | dict[str, Any]) -> None:
        """Something else happened."""
        self._events.offer(event)

    def close(self) -> dict[str, int]:
        """Finish what waits, for some seconds at most; returns how much was not done, by name."""
        lost = {"pictures": 0 if self._rejects is None else self._rejects.close(END_S)}
        if self._command is not None and self._on_reject is not None:
            lost["commands"] = self._command.close(COMMAND_S)  # one that has just begun has its time
            self._on_reject.stop()
        lost["events"] = self._events.close(END_S) + sum(file.close(END_S) for file in self._files)
        return {name: count for name, count in lost.items() if count}

    def _write(self, event: Decision | Turn | dict[str, Any]) -> None:
        if isinstance(event, Turn):
            self._note(event)
            event = {"event": event.what, "camera": event.camera_id, "up": event.up, "reason": event.reason}
        elif isinstance(event, Decision):
            if self.board is not None:
                self.board.add(event)
            event = decision_event(event)
        if self._files:
            line = json.dumps(console.finite(event), ensure_ascii=False)
            for file in self._files:
                file.offer(line)

    @staticmethod
    def _note(turn: Turn) -> None:
        state = "there" if turn.up else f"lost, trying again: {console.one_line(turn.reason)}"
        console.note(f"{turn.camera_id}: {turn.what} {state}")


def run_lines(
    cameras: Sequence[tuple[str, Source]],
    connect: Callable[[], AnyClient],
    plan: LinePlan,
    deadline_s: float,
    on_no_answer: GateAction,
    outputs: Outputs,
) -> list[Line]:
    """Run every camera as a line until all have ended, or SIGINT or SIGTERM comes; to be called in the main thread.

    Raises the first failure of a line, InputError for outputs that cannot be.
    """
    office = Office(outputs)
    keep = outputs.rejects is not None
    lines = []
    for camera_id, source in cameras:
        gate = Gate(camera_id, deadline_s, on_no_answer, office.decided, keep)
        lines.append(Line(source, gate, connect, plan, office.tell))
    screen = console.output()
    live = not outputs.as_json and screen.is_terminal
    if live:
        office.board = Board(lines)
    stop = Event()

    def stopped() -> None:
        stop.set()
        for line in lines:
            line.stop()

    with heard(stopped), Live(office.board, console=screen) if live else nullcontext():
        for line in lines:
            line.start()
        for line in lines:
            while not line.ended.wait(1.0):
                if any(each.failure for each in lines):  # one that can never work ends them all
                    stopped()
        for line in lines:
            line.join(JOIN_S)
    for line in lines:
        office.tell(summary(line))
    undone = office.close()
    for line in lines if not outputs.as_json else []:
        screen.print(summary_line(line), soft_wrap=True, highlight=False, markup=False)
    for name, count in undone.items():
        console.note(f"{count} {name} were left out: they came too fast, failed, or were not done at the end")
    failures = [line.failure for line in lines if line.failure is not None]
    if failures:
        raise failures[0]
    return lines
