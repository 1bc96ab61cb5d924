"""A server as a child process for as long as a `with` block lasts, on any free loopback port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import FrameType

from agvas_runtime.errors import EngineError

STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that has reported that it is ready."""

    process: subprocess.Popen[str]
    port: int
    model: str
    start_s: float
    """From its start to its report."""


@contextmanager
def server_process(arguments: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """Start `agvas-runtime serve` with these arguments; it is stopped when the block ends, however it ends.

    Raises:
        EngineError: the server ended before it was ready; its own line is on stderr already.
    """
    command = [sys.executable, "-m", "agvas_runtime.cli", "serve", "--port", "0", "--json", *arguments]
    with _termination_is_an_interrupt():
        started = perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            yield _ready(process, started)
        finally:
            _stop(process)


def _ready(process: subprocess.Popen[str], started: float) -> ServerProcess:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EngineError(f"the server ended before it was ready, with exit code {process.wait()}")
    event = json.loads(line)
    return ServerProcess(process, event["port"], event["model"], perf_counter() - started)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ask the process to stop, and make it stop if it does not."""
    if process.poll() is None:
        process.terminate()
    try:
        process.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@contextmanager
def _termination_is_an_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that the child never outlives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
