"""Where decisions go beside the gate: pictures of rejects, a command, JSON lines. None of them can hold up a part."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Thread
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from agvas_runtime import encoding
from agvas_runtime.camera.gate import Decision
from agvas_runtime.console import note, one_line
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import make_folder, write_whole
from agvas_runtime.frames import decode_image
from agvas_runtime.overlay import draw_overlay
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.pixels import raw_to_rgb
from agvas_runtime.verdict import Verdict
from agvas_runtime.wire import ImageLike, put_head

Item = TypeVar("Item")

COMMAND_S = 10.0
"""A command that runs longer is ended."""
END_S = 5.0
"""How long the end waits for what is not done yet."""
SUFFIX = "_reject.png"


class Worker(Generic[Item]):
    """Does something with items in a thread of its own; what finds its queue full is skipped and counted.

    Args:
        name: what people are told where it fails.
        handle: called with each item.
        capacity: items that may wait.
    """

    def __init__(self, name: str, handle: Callable[[Item], None], capacity: int) -> None:
        self.skipped = self.failed = 0
        self._name, self._handle = name, handle
        self._items: Queue[Item | None] = Queue(capacity)
        self._ended = False
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> None:
        """Have it handled, if there is room."""
        try:
            self._items.put_nowait(item)
        except Full:
            self.skipped += 1

    def close(self, timeout_s: float = END_S) -> int:
        """Handle what waits, then end; what is not done by then stays undone.

        Returns how many items were not done, those included that were skipped or failed.
        """
        self._ended = True
        self._thread.join(timeout_s)
        lost = self.skipped + self.failed + self._thread.is_alive()
        with suppress(Empty):
            while True:
                self._items.get_nowait()
                lost += 1
        return lost

    def _work(self) -> None:
        while True:
            try:
                item = self._items.get(timeout=0.1)
            except Empty:
                if self._ended:
                    return
                continue
            try:
                if item is not None:
                    self._handle(item)
            except Exception as error:
                self.failed += 1
                if self.failed == 1:
                    note(f"{self._name}: {one_line(str(error))}; further ones are counted only")


class Rejects:
    """A folder with the newest pictures of rejected parts.

    Args:
        folder: made where it is not there; raises InputError.
        keep: so many pictures; the oldest go first. Other files in the folder are left alone.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = make_folder(folder), keep
        self._names = deque(sorted(path.name for path in folder.glob(f"*{SUFFIX}")))

    def __call__(self, decision: Decision) -> None:
        """Draw the part; raises EngineError where it cannot be written, or has no frame or mask any more."""
        reply, image = decision.reply, decision.image
        if reply is None or image is None or reply.mask is None:
            missing = "frame: too many parts waited for their answers" if image is None else "mask"
            raise EngineError(f"{decision.camera_id} {decision.sequence}: no picture, since it has no {missing}")
        text = f"{decision.camera_id} {decision.sequence}  {reply.defect_area_px} px  {reply.confidence:.2f}"
        picture = draw_overlay(rgb_of(image), reply.mask, reply.regions, reply.verdict, text)
        moment = decision.capture_time.strftime("%Y%m%dT%H%M%S.%f")
        name = f"{moment}_{decision.camera_id}_{decision.sequence:08d}{SUFFIX}"
        write_whole(self._folder / name, encoding.png(picture))
        self._names.append(name)
        while len(self._names) > self._keep:
            (self._folder / self._names.popleft()).unlink(missing_ok=True)


class OnReject:
    """Runs a command for every part that the gate does not pass; raises InputError for one that is none.

    No shell reads it; its session is its own, so a Ctrl-C does not reach it. The facts are in its environment:
    AGVAS_CAMERA, AGVAS_SEQUENCE, AGVAS_PART, AGVAS_TRIGGER, AGVAS_GATE, AGVAS_VERDICT, AGVAS_STATUS, AGVAS_REASON,
    AGVAS_CAPTURE_TIME, AGVAS_AREA_PX, AGVAS_LATENCY_MS.
    """

    def __init__(self, command: str) -> None:
        try:
            self._command = shlex.split(command)
        except ValueError as error:
            raise InputError(f"--on-reject: found {command!r}, expected a command: {error}") from None
        if not self._command:
            raise InputError("--on-reject: found nothing, expected a command")
        if shutil.which(self._command[0]) is None:
            raise InputError(f"--on-reject: found {self._command[0]}, expected a program that is there and can be run")
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, decision: Decision) -> None:
        """Run it to its end; raises OSError where it cannot be run, RuntimeError where it fails or takes too long."""
        process = self._process = subprocess.Popen(
            self._command,
            env={**os.environ, **facts(decision)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            self.stop()
            process.wait()
            raise RuntimeError(f"{self._command[0]} took longer than {COMMAND_S:g} s") from None
        if code:
            raise RuntimeError(f"{self._command[0]} ended with exit code {code}")

    def stop(self) -> None:
        """End the command that runs, and whatever it has started."""
        process = self._process
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def facts(decision: Decision) -> dict[str, str]:
    """A decision as environment variables: one line each, whatever the texts hold."""
    area = "" if decision.reply is None else str(decision.reply.defect_area_px)
    values = {
        "CAMERA": decision.camera_id,
        "SEQUENCE": str(decision.sequence),
        "PART": decision.part_id,
        "TRIGGER": decision.trigger_id,
        "GATE": decision.gate,
        "VERDICT": decision.verdict.value,
        "STATUS": decision.status,
        "REASON": decision.reason,
        "CAPTURE_TIME": decision.capture_time.isoformat(),
        "AREA_PX": area,
        "LATENCY_MS": f"{decision.latency_ms:.1f}",
    }
    return {f"AGVAS_{name}": one_line(value) for name, value in values.items()}


class JsonLines:
    """Writes events as JSON, one a line, as soon as they come.

    Unbuffered and under a number of its own: who hangs in a write holds no lock that the end of the process needs.

    Args:
        path: appended to; stdout where None. Raises InputError where it cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._torn = False
        """The last line was not written to its end."""
        if path is None:
            self._file = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
            return
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path}: cannot write: {error.strerror}") from None

    def __call__(self, line: str) -> None:
        """Write a line; raises OSError."""
        text = f"\n{line}\n" if self._torn else f"{line}\n"
        rest = text.encode("utf-8", "backslashreplace")  # names of files may be no valid text
        while rest:
            rest = rest[os.write(self._file.fileno(), rest) :]
            self._torn = bool(rest)


def without_pictures(decision: Decision) -> Decision:
    """A decision as lines and commands are told of it: frame, mask and maps take megabytes."""
    reply = decision.reply
    if reply is not None:
        reply = replace(reply, mask=None, probability=None, groups=(), polygons=None)
    return replace(decision, image=None, reply=reply)


def decision_event(decision: Decision) -> dict[str, Any]:
    """A decision as a JSON-able document."""
    reply = decision.reply
    event: dict[str, Any] = {
        "event": "decision",
        "camera": decision.camera_id,
        "sequence": decision.sequence,
        "part": decision.part_id,
        "trigger": decision.trigger_id,
        "capture_time": decision.capture_time.isoformat(),
        "gate": decision.gate,
        "verdict": decision.verdict.value,
        "status": decision.status,
        "reason": decision.reason,
        "latency_ms": round(decision.latency_ms, 3),
    }
    if reply is None or reply.status != "ok":
        return event
    regions = [
        {"box": list(each.box), "area_px": each.area_px, "mean_score": each.mean_score} for each in reply.regions
    ]
    return {**event, "defect_area_px": reply.defect_area_px, "confidence": reply.confidence, "regions": regions}


def rgb_of(image: ImageLike) -> NDArray[np.uint8]:
    """A frame as it was sent, as uint8 RGB [H, W, 3]; raises InputError."""
    frame = pb.Frame()
    content = put_head(frame, image, None).data
    return raw_to_rgb(frame.raw, content) if frame.HasField("raw") else decode_image(bytes(content))


def is_reject(decision: Decision) -> bool:
    """Whether the server found a defect."""
    return decision.verdict is Verdict.REJECT
