"""GigE Vision and USB3 Vision cameras by Aravis, which the system's packages bring: `aravis_grabber.py` does the work.

The grabber is a process of its own, because PyGObject is there for the system's Python only. Its frames come by a pipe.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

from agvas_runtime.camera.pfnc import format_of, raw_frame
from agvas_runtime.camera.source import (
    POLL_S,
    SILENCE_S,
    Captured,
    CaptureOptions,
    FrameNumbers,
    Pulse,
    SourceLostError,
    captured_ago,
)
from agvas_runtime.errors import EngineError, InputError

PYTHON_VARIABLE = "AGVAS_GI_PYTHON"
PACKAGES = "gir1.2-aravis-0.8 and python3-gi"
GRABBER = Path(__file__).with_name("aravis_grabber.py")
STOP_S = 3.0
PIPE_BYTES = 1 << 20
HEAD = struct.Struct("<II")
"""Bytes of a message's JSON, and of the frame behind it."""


class AravisSource:
    """A camera by its serial number, id or address; the first one where that is empty.

    Raises EngineError where no Python here has Aravis.
    """

    def __init__(self, camera: str, options: CaptureOptions) -> None:
        self._camera, self._options, self.name = camera, options, f"gige:{camera}"
        self._python = _python_with_aravis()

    def frames(self, stopping: Event) -> Generator[Captured, None, None]:
        """As `Source`; a frame with missing packets is a broken one."""
        command = [self._python, "-I", str(GRABBER), json.dumps(self._asked())]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert process.stdout is not None
        try:
            with suppress(OSError, AttributeError):  # larger than it is allowed to be, or another system
                fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            yield from self._read(process.stdout.fileno(), stopping)
        finally:
            _end(process)

    def _asked(self) -> dict[str, Any]:
        options = self._options
        fps = 1.0 if options.fps is None else options.fps
        return {
            "camera": self._camera,
            "features": dict(options.features),
            "trigger": options.trigger,
            "fps": fps,
        }

    def _read(self, pipe: int, stopping: Event) -> Iterator[Captured]:
        numbers, pulse, pixel_format = FrameNumbers(), Pulse(self.name, self._options), ""
        while (found := self._message(pipe, stopping)) is not None:
            message, data = found
            if "lost" in message:
                raise SourceLostError(f"{self.name}: {message['lost']}")
            if "wrong" in message:
                raise InputError(f"{self.name}: {message['wrong']}")
            if message.get("silent"):
                yield Captured(None, broken="no frame came after the trigger")
            if "frame" not in message:
                pulse.check()
                continue
            pulse.beat()
            if self._options.trigger != "software":
                yield from numbers.missing(message["frame"])
            identity, (when, at) = str(message["frame"]), captured_ago(message["ago_s"])
            if message["status"] != "success":
                reason = f"the frame is not complete: {message['status'].replace('-', ' ')}"
                yield Captured(None, identity, broken=reason, capture_time=when, at=at)
                continue
            pixel_format = pixel_format or format_of(message["pixel_format"])
            frame = raw_frame(data, message["width"], message["height"], pixel_format, message["padding"])
            yield Captured(frame, identity, capture_time=when, at=at)

    def _message(self, pipe: int, stopping: Event) -> tuple[dict[str, Any], memoryview] | None:
        """The grabber's next message; None when it is time to stop. Raises SourceLostError where none comes."""
        head = self._exactly(pipe, HEAD.size, stopping)
        if head is None:
            return None
        text_bytes, data_bytes = HEAD.unpack(head)
        content = self._exactly(pipe, text_bytes + data_bytes, stopping)
        return None if content is None else (json.loads(bytes(content[:text_bytes])), content[text_bytes:])

    def _exactly(self, pipe: int, count: int, stopping: Event) -> memoryview | None:
        content = memoryview(bytearray(count))
        at, heard = 0, monotonic()
        while at < count:
            if stopping.is_set():
                return None
            if not select.select([pipe], [], [], POLL_S)[0]:
                if monotonic() - heard > SILENCE_S:  # it speaks several times a second
                    raise SourceLostError(f"{self.name}: the grabber says nothing any more")
                continue
            read = os.readv(pipe, [content[at:]])
            if not read:
                raise SourceLostError(f"{self.name}: the grabber ended")
            at, heard = at + read, monotonic()
        return content.toreadonly()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the grabber give the camera back, or the next one could not have it; make it end if it does not.

    What it still writes is read, so that it is not held up.
    """
    try:
        process.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@lru_cache(maxsize=1)
def _python_with_aravis() -> str:
    """An interpreter that has PyGObject and Aravis: the one that is named, this one, or the system's."""
    named = os.environ.get(PYTHON_VARIABLE)
    test = "import gi; gi.require_version('Aravis', '0.8'); from gi.repository import Aravis"
    for python in [named] if named else [sys.executable, "/usr/bin/python3"]:
        with suppress(OSError):
            done = subprocess.run([python, "-I", "-c", test], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    raise EngineError(
        f"Aravis is not installed, which gige: needs: apt install {PACKAGES.replace(' and', '')}; "
        f"{PYTHON_VARIABLE} names a Python that has it"
    )
