"""A worker's process: started, its pipe opened, its stderr logged, its end explained. Nothing here knows jobs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from agvas_runtime.console import one_line
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.messages import Hello, Link
from agvas_runtime.server.engine.task import EngineSpec
from agvas_runtime.server.engine.worker import LEFT_TO_THE_SERVER

LOG = logging.getLogger("agvas.engine")
WORKER = "agvas_runtime.server.engine.worker"
END_S = 5.0
"""A process that has closed its pipe, or was killed, is gone in this time, or never."""
LINE_BYTES = 4096
"""A longer line is logged as several."""


class Child:
    """A running worker. Its pipe is `link`.

    The thread that makes it must outlive it: the kernel takes that thread's end for the server's.

    Raises:
        OSError: no process can be started; RuntimeError: no thread.
    """

    def __init__(self, spec: EngineSpec, arena: Arena) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs, _signals_wait():
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(theirs.fileno()), str(arena.fd)],
                pass_fds=(theirs.fileno(), arena.fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(spec.device),
            )
            self.link = Link(ours.detach())
        self._last_line = ""
        self._talk = threading.Thread(target=self._log, name="engine-log", daemon=True)
        try:
            self._talk.start()
        except RuntimeError:
            self.process.kill()
            self.process.wait()
            raise
        with suppress(BrokenPipeError):  # that it is dead already shows on reading
            self.link.send(Hello(spec, arena.size))

    def memory_bytes(self) -> int:
        """Resident memory without shared memory, so without the arena: RssAnon and RssFile; 0 when it is gone."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return sum(int(fields.get(name, "0").split()[0]) * 1024 for name in ("RssAnon", "RssFile"))

    def end(self) -> str | None:
        """See to it that it is gone, and say why it went; None where the kernel cannot end it."""
        for last_try in (False, True):
            try:
                code = self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                if last_try:
                    return None
                continue
            break
        self._talk.join(END_S)
        if code < 0:
            return f"killed by signal {-code}"
        return f"exit code {code}: {self._last_line}" if self._last_line else f"exit code {code}"

    def _log(self) -> None:
        stream: IO[bytes] | None = self.process.stdout
        assert stream is not None
        with stream:
            while line := stream.readline(LINE_BYTES):
                if text := one_line(line.decode(errors="replace")):
                    self._last_line = text
                    LOG.info("engine process %d: %s", self.process.pid, text)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold back this thread's SIGINT and SIGTERM, and so those of a process that it starts, until that ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_SERVER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _environment(device: str) -> dict[str, str]:
    environment = dict(os.environ)
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    if not _imports_from_here():
        environment["PYTHONSAFEPATH"] = "1"
    return environment


def _imports_from_here() -> bool:
    """Whether the server takes modules from the folder it was started in; where it does not, its worker must not."""
    try:
        return not {"", os.getcwd()}.isdisjoint(sys.path)
    except FileNotFoundError:  # the folder is gone
        return False
