"""The figures of a run's steps: lines of `metrics.jsonl`, and TensorBoard's scalars, which a run can do without."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from agvas_runtime import console
from agvas_runtime.errors import EngineError
from agvas_runtime.files import write_whole

METRICS, SCALARS = "metrics.jsonl", "tensorboard"


class Journal:
    """Appends every step's figures to the files of a run that begins, or goes on, at step `start`.

    Raises:
        EngineError: `metrics.jsonl` cannot be written.
    """

    def __init__(self, run: Path, start: int) -> None:
        self.path = run / METRICS
        if self.path.is_file():  # steps that a resumed run does again, and a line that a kill cut short
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_whole(self.path, "".join(line for line in lines if _step_of(line) < start).encode())
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self.scalars: Path | None = run / SCALARS / name
        # TensorBoard forgets what it holds of the steps from `start` on
        begins = Event(step=start, session_log=SessionLog(status=SessionLog.START))
        self._add(Event(file_version="brain.Event:2"), begins)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add the figures of one step."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
        except OSError as error:
            raise EngineError(f"{self.path}: cannot write: {error.strerror}") from None
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(Event(step=step, summary=Summary(value=values)))

    def _add(self, *events: Event) -> None:
        """Append events for TensorBoard; where that fails, say so once and leave it.

        Not through its own writer: that one writes in a thread, which fails with a traceback, and later than the step.
        """
        if self.scalars is None:
            return
        try:
            self.scalars.parent.mkdir(parents=True, exist_ok=True)
            with self.scalars.open("ab") as file:
                for event in events:
                    event.wall_time = time.time()
                    RecordWriter(file).write(event.SerializeToString())
        except OSError as error:
            console.note(f"{self.scalars}: cannot write: {error.strerror}; no more scalars, {METRICS} goes on")
            self.scalars = None


def _step_of(line: str) -> float:
    """The step of a line of figures; of one that a kill has cut short, or that is none, infinity."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
