"""The server's log on stderr: one line an event, as text or as JSON, with what belongs to it (`extra=`) behind.

Logging never stops the server: a thread of its own writes. What it cannot keep up with, or an output that is closed or
full does not take, is left out and counted; the count is told once there is a way. What comes from callers cannot forge
a line or steer a terminal.
"""

from __future__ import annotations

import io
import json
import logging
import os
import queue
import select
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from threading import Lock, Thread
from typing import Any, TextIO

from agvas_runtime.console import finite, one_line

ROOT = "agvas"
"""Of the names of the server's loggers."""
MOST_LINES = 4096
"""That may wait to be written."""
LONGEST_MESSAGE, LONGEST_VALUE = 2000, 256
"""Characters; the rest is cut."""
FLUSH_S = 2.0
"""How long the end of the process waits for the last lines."""
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else was given with `extra`."""


def set_up(level: str = "info", format: str = "text", stream: TextIO | None = None) -> LogWriter:
    """Send the log of this process to stderr (or the stream), from this level on; of other packages from WARNING on.

    Returns the writer; `close` it last of all.
    """
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    writer = LogWriter(stream if stream is not None else sys.stderr)
    writer.setFormatter(JsonLines() if format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers = [writer]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(level.upper())
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it says of broken images what their senders are told anyway
    warnings.filterwarnings("ignore", module="PIL")
    return writer


class LogWriter(logging.Handler):
    """Formats where a record is made and writes from a thread, so that no caller waits for the output."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._out, self._lost, self._cut, self._ended = _own(stream), 0, False, False
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_LINES)
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; one too many is counted and left out."""
        if self._ended:
            return
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._lost += 1
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Write what waits, for a short time at most, and take nothing more."""
        super().close()
        logging.getLogger().removeHandler(self)
        with self._held():
            ended, self._ended = self._ended, True
        if ended:
            return
        try:
            self._lines.put(None, timeout=FLUSH_S)
        except queue.Full:  # the thread hangs in a write: the last line gives way to the end
            self._lines.get_nowait()
            self._lines.put_nowait(None)
        self._thread.join(FLUSH_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            with self._held():
                lost, self._lost = self._lost, 0
            if lost:
                text = f"{lost} lines were left out: the output did not take them"
                note = self.format(logging.makeLogRecord({"name": ROOT, "levelname": "WARNING", "msg": text}))
                lost = 0 if self._put(note) else lost
            lost += not self._put(line)
            with self._held():
                self._lost += lost
        if isinstance(self._out, io.RawIOBase):
            self._out.close()

    def _put(self, line: str) -> bool:
        """Whether the output took it: it may be closed, full, or without a reader."""
        with suppress(OSError, ValueError):
            if isinstance(self._out, io.RawIOBase):
                self._write(self._out, f"{line}\n".encode("utf-8", "backslashreplace"))
            elif self._out is not None:
                self._out.write(f"{line}\n")
                self._out.flush()
            return True
        return False

    def _write(self, out: io.RawIOBase, data: bytes) -> None:
        """Write a line; one that was cut in the middle before is ended first, or both would be unreadable."""
        data = b"\n" + data if self._cut else data
        left = data
        try:
            while left:
                left = left[_written(out, left) :]
        finally:
            self._cut = bool(left) and (self._cut or len(left) < len(data))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The handler's lock, which `emit` is called with."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


class TextLines(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO agvas.server: message key=value`, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, without its end."""
        parts = [_time(record), record.levelname, f"{record.name}:", _message(record)]
        parts += [f"{key}={_plain(value)}" for key, value in _extra(record).items()]
        if record.exc_info:
            parts.append(f"exception={_plain(self.formatException(record.exc_info), LONGEST_MESSAGE)}")
        return " ".join(parts)


class JsonLines(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, then what was given with the record. ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, without its end."""
        usual = {"ts": _time(record), "level": record.levelname, "logger": record.name, "message": _message(record)}
        line = usual | {key: value for key, value in _extra(record).items() if key not in usual}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(finite(line))


class CallLog:
    """Logs the ends of calls: OK at DEBUG, others at INFO but no more than so many a second, the rest counted.

    Args:
        per_s: lines at INFO in a second.
        clock: seconds.
    """

    def __init__(
        self,
        log: logging.Logger = logging.getLogger("agvas.calls"),
        per_s: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._per_s, self._clock = log, per_s, clock
        self._second, self._count, self._suppressed = -1, 0, 0
        self._lock = Lock()

    def ended(self, method: str, code: str, reason: str = "", **details: object) -> None:
        """Log the end of a call.

        Args:
            method: as in "/agvas.v1.Inspection/Segment".
            code: name of its status.
            reason: text of its status.
            details: request_id, peer, principal, seconds and the like; what is None or "" is left out.
        """
        extra = {key: value for key, value in details.items() if value not in (None, "")}
        if code == "OK":
            self._log.debug("%s %s", method, code, extra=extra)
            return
        suppressed = self._allowed()
        if suppressed is None:
            return
        if suppressed:
            extra["suppressed"] = suppressed
        self._log.info("%s %s%s", method, code, f": {reason}" if reason else "", extra=extra)

    def _allowed(self) -> int | None:
        """How many were left out since the last line, or None if this one is to be left out too."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._count = second, 0
            if self._count >= self._per_s:
                self._suppressed += 1
                return None
            self._count += 1
            suppressed, self._suppressed = self._suppressed, 0
            return suppressed


def _own(stream: TextIO | None) -> io.RawIOBase | TextIO | None:
    """The stream's file under a number of its own, or the stream where there is no file behind it.

    So a thread that hangs in a write holds no lock of the stream, and nothing else can come to have the number.
    """
    if stream is None:
        return None
    try:
        return os.fdopen(os.dup(stream.fileno()), "wb", buffering=0)
    except (OSError, ValueError):
        return stream


def _written(out: io.RawIOBase, data: bytes) -> int:
    """How many bytes the output took; one that does not wait for its reader by itself is waited for here."""
    count = out.write(data)
    if count is None:
        ready = select.poll()
        ready.register(out.fileno(), select.POLLOUT)
        ready.poll()
    return count or 0


def _time(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    made = datetime.fromtimestamp(record.created, timezone.utc)
    return made.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    return one_line(record.getMessage()[: 2 * LONGEST_MESSAGE])[:LONGEST_MESSAGE]


def _extra(record: logging.LogRecord) -> Mapping[str, Any]:
    """What was given with the record, as harmless values."""
    return {key: _harmless(value) for key, value in vars(record).items() if key not in _USUAL}


def _harmless(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int | float):
        return value
    return one_line(str(value)[: 2 * LONGEST_VALUE])[:LONGEST_VALUE]


def _plain(value: object, longest: int = LONGEST_VALUE) -> str:
    """A value of a text line; in quotes where it would not be one word."""
    text = one_line(str(value)[: 2 * longest])[:longest]
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)
