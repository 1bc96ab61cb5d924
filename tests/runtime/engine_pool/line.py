"""Engines of the embedded bundle with cameras before them, and what is expected of an answer."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from PIL import Image

from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.result import Result
from agvas_runtime.segmenter import Text
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.pool import EnginePool
from agvas_runtime.server.engine.task import EngineSpec, FrameResult, Task
from agvas_runtime.server.lanes import Answered, Lanes, NoResult, Ticket
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES

IMAGES = [np.asarray(Image.open(path).convert("RGB").resize((120, 90))) for path in sorted(DEMO_FRAMES.glob("*.jpg"))]
SHORT = Task(probability=True)
LONG = Task(Request(Mode.DESCRIBE), decoding=Decoding(temperature=10, seed=8, max_new_tokens=300), probability=True)
OUTSIDE = Task(recipe=Recipe(roi=(500, 500, 600, 600)))
"""A region that no image here has: the segmenter refuses it."""
ONE_THREAD = EngineSpec(threads=1)
WAIT_S = 60


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true."""
    end, pause = monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert monotonic() < end
        pause.wait(0.005)


@dataclass
class Line:
    """A pool with its lanes and its memory, and what its tests want of it."""

    spec: EngineSpec = ONE_THREAD
    devices: tuple[str, ...] = ("",)
    hang_s: float = 60.0
    changes: list[tuple[bool, str]] = field(default_factory=list)
    on_change: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.arena, self.lanes = Arena(64 << 20), Lanes()
        self.pool = EnginePool(
            self.spec, self.lanes, self.arena, devices=self.devices, hang_s=self.hang_s, on_change=self._changed
        )
        self.lane = self.lanes.open("camera", "block", 8)

    def _changed(self) -> None:
        self.changes.append((self.pool.ready, self.pool.reason))
        self.on_change()

    @property
    def pid(self) -> int:
        return self.pool.facts.pid

    def ticket(self, task: Task = SHORT, image: int = 0) -> Ticket:
        return Ticket(self.arena.place(IMAGES[image], wait_s=WAIT_S), task)

    def offered(self, task: Task = SHORT, image: int = 0) -> Ticket:
        ticket = self.ticket(task, image)
        self.lane.offer(ticket)
        return ticket

    def in_flight(self, task: Task = SHORT) -> Ticket:
        """A frame that the engine has and does not finish, because it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        ticket = self.offered(task)
        until(lambda: self.lanes.waiting == 0)
        return ticket

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def running(**options) -> Iterator[Line]:
    """A pool that is ready; after that no frame holds memory any more, and no process is left."""
    line = Line(**options)
    try:
        line.pool.start()
        yield line
    finally:
        line.pool.stop(5)
    until(lambda: line.arena.free_bytes == line.arena.size)
    assert not any(alive(state.pid) for state in line.pool.engines())


def alive(pid: int) -> bool:
    return pid != 0 and os.path.exists(f"/proc/{pid}")


def assert_answers(ticket: Ticket, expected: Result) -> Answered:
    """Its result is the segmenter's own; the block is given back."""
    answered = ticket.outcome.result(WAIT_S)
    assert answered.result.verdict == expected.verdict
    assert np.array_equal(answered.block.mask, expected.mask)
    assert np.array_equal(answered.block.probability, expected.probability)
    answered.block.release()
    return answered


def assert_answers_any(ticket: Ticket) -> None:
    ticket.outcome.result(WAIT_S).block.release()


def said(result: FrameResult) -> pb.SegmentResponse:
    return pb.SegmentResponse.FromString(result.reply)


def assert_nearest(ticket: Ticket, image: int, expected: list[Result]) -> FrameResult:
    """Of frames that are segmented together 8-bit scales are shared: the map is nearest to the frame's own."""
    answered = ticket.outcome.result(WAIT_S)
    off = [float(np.abs(answered.block.probability - each.probability).mean()) for each in expected]
    assert off.index(min(off)) == image
    answered.block.release()
    return answered.result


def failure(ticket: Ticket) -> NoResult:
    error = ticket.outcome.exception(WAIT_S)
    assert isinstance(error, NoResult)
    return error


@contextmanager
def held(line: Line, image: int = 0) -> Iterator:
    """A block that the caller of `stream` holds."""
    block = line.arena.place(IMAGES[image])
    try:
        yield block
    finally:
        block.release()


def texts(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))
