"""What an engine process does once it is set up: it segments what it is given in turns, and looks what else it is told.

All of it is done in one thread: a frame that another one hands over costs a tenth of a millisecond more.
Batches of frames and streams take turns, and so do streams: a batch never waits for more than one step of a stream.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from agvas_runtime.engines.choice import Stopped
from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.result import Result
from agvas_runtime.segmenter import Event, Segmenter
from agvas_runtime.server import replies
from agvas_runtime.server.engine.arena import Arena, Block
from agvas_runtime.server.engine.messages import (
    START,
    Answer,
    Cancel,
    Failed,
    Hello,
    Link,
    Next,
    Ready,
    Stop,
    Work,
    unpacked,
)
from agvas_runtime.server.engine.opening import open_engine
from agvas_runtime.server.engine.task import FrameResult, Task
from agvas_runtime.server.heap import keep_apart, keep_collected


@dataclass(eq=False)
class Job:
    """Work that is not done yet."""

    work: Work
    cancelled: bool = False
    over: bool = False
    events: Generator[Event, None, None] | None = None
    """Of a stream that has begun."""


class Inbox:
    """The server's messages. A job that runs looks into it now and then, so that a cancelled one hears of it.

    When the server is gone the process ends; in the midst of a run the kernel ends it, see `worker.py`.
    """

    def __init__(self, link: Link) -> None:
        self.stopping = threading.Event()
        """Nothing more is to be begun."""
        self.turns: deque[Job] = deque()
        """Jobs that are new, or whose next step is wanted, or that are cancelled."""
        self._link = link
        self._jobs: dict[int, Job] = {}
        self._first = threading.Thread(target=self._receive, name="inbox", daemon=True)

    def listen(self) -> None:
        """Wait for the first message on a thread: that the engine is not wanted may come while it is being opened."""
        self._first.start()

    def listened(self) -> None:
        """Wait until the first message is there; from now on they are `heard`."""
        self._first.join()

    def hear(self, *, wait: bool = False) -> None:
        """Sort in what the server has said; wait for a message where there is none and one is wanted."""
        while wait or self._link.poll():
            self._receive()
            wait = False

    def unwanted(self, job: Job) -> bool:
        """Whether a job is cancelled, by what the server has said up to now."""
        self.hear()
        return job.cancelled

    def forget(self, job: Job) -> None:
        """It is over."""
        self._jobs.pop(job.work.job, None)

    def _receive(self) -> None:
        try:
            self._take(self._link.recv())
        except (EOFError, OSError):
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _take(self, message: Work | Next | Cancel | Stop) -> None:
        if isinstance(message, Stop):
            self.stopping.set()
            return
        if isinstance(message, Work):
            self._jobs[message.job] = Job(message)
        job = self._jobs.get(message.job)
        if job is not None:  # else it has just ended
            job.cancelled = job.cancelled or isinstance(message, Cancel)
            self.turns.append(job)


class Desk:
    """Does the jobs.

    Args:
        segmenter: runs the model.
        arena: where blocks are.
        inbox: where jobs come from.
        send: takes the answers.
    """

    def __init__(
        self, segmenter: Segmenter, arena: Arena, inbox: Inbox, send: Callable[[Answer | Failed], None]
    ) -> None:
        self._segmenter, self._arena, self._inbox, self._send = segmenter, arena, inbox, send
        self._batches: deque[Job] = deque()
        self._steps: deque[Job] = deque()
        self._results: list[Result] = []
        """Of the last batch. They are kept until they are answered: giving their memory back takes a quarter of a
        millisecond."""

    def serve(self) -> None:
        """Work until told to stop."""
        while not self._inbox.stopping.is_set():
            self.round()

    def round(self) -> None:
        """Run one batch and one step of a stream, of those that wait; waits for work where there is none."""
        self._collect()
        for waiting, turn in ((self._batches, self._segmented), (self._steps, self._next_event)):
            if waiting:
                self._do(waiting.popleft(), turn)

    def _collect(self) -> None:
        turns = self._inbox.turns
        self._inbox.hear(wait=not (turns or self._batches or self._steps))
        while turns:
            job = turns.popleft()
            if job.cancelled:  # it ends at once, and its blocks are free
                self._do(job, self._segmented)
            else:
                (self._steps if job.work.streamed else self._batches).append(job)

    def _do(self, job: Job, turn: Callable[[Job], Answer]) -> None:
        if job.over:
            return
        answer: Answer | Failed
        try:
            if job.cancelled:
                raise Cancelled("the answer is not wanted any more")
            answer = turn(job)
        except Exception as error:
            answer = failed(job.work.job, error)
        if isinstance(answer, Failed) or answer.last:
            job.over = True
            self._inbox.forget(job)
            if job.events is not None:
                job.events.close()
        self._send(answer)
        self._results = []

    def _segmented(self, job: Job) -> Answer:
        tasks, blocks = unpacked(job.work.tasks), self._blocks(job)
        self._results = self._segmenter.segment_batch(
            [_pixels(block) for block in blocks],
            tasks[0].request,
            [task.recipe for task in tasks],
            decoding=tasks[0].decoding,
            cancelled=partial(self._inbox.unwanted, job),
            whole_maps=any(task.probability for task in tasks),
        )
        kept = [_kept(*each) for each in zip(self._results, blocks, tasks, strict=True)]
        return Answer(job.work.job, kept, last=True)

    def _next_event(self, job: Job) -> Answer:
        (task,), (block,) = unpacked(job.work.tasks), self._blocks(job)
        if job.events is None:
            job.events = self._segmenter.stream(
                _pixels(block),
                task.request,
                task.recipe,
                decoding=task.decoding,
                cancelled=partial(self._inbox.unwanted, job),
                whole_maps=task.probability,
            )
        event = next(job.events)
        last = isinstance(event, Result)
        return Answer(job.work.job, _kept(event, block, task) if isinstance(event, Result) else event, last)

    def _blocks(self, job: Job) -> list[Block]:
        """Raises ValueError for those that lie outside the arena."""
        return [self._arena.at(token) for token in job.work.tokens]


def work(link_fd: int, arena_fd: int) -> int:
    """Be an engine process, by the numbers of its two open files. Returns its exit code."""
    for fd in (link_fd, arena_fd):
        os.set_inheritable(fd, False)
    keep_apart()
    link = Link(link_fd)
    hello: Hello = link.recv()
    arena, inbox = Arena.attach(arena_fd, hello.arena_bytes), Inbox(link)
    inbox.listen()
    try:
        segmenter, facts = open_engine(hello.spec, inbox.stopping)
    except Stopped:
        return 0
    except Exception as error:
        link.send(failed(START, error))
        return 1
    try:
        keep_collected()
        link.send(Ready(facts))
        inbox.listened()
        Desk(segmenter, arena, inbox, link.send).serve()
    finally:
        segmenter.close()
    return 0


def failed(job: int, error: Exception) -> Failed:
    """How an error travels; what nobody foresaw is told on stderr, too."""
    if not isinstance(error, InputError | EngineError | Cancelled):
        traceback.print_exception(error)
    return Failed.by(job, error)


def _pixels(block: Block) -> np.ndarray[Any, np.dtype[np.uint8]]:
    image = block.image
    image.setflags(write=False)
    return image


def _kept(result: Result, block: Block, task: Task) -> FrameResult:
    """Put mask and map into the block; the rest travels."""
    block.mask[:] = result.mask
    if task.probability:
        block.probability[:] = result.probability
    reply = replies.result_reply(result, task.recipe).SerializeToString()
    total_ms = result.timings_ms["total"]
    return FrameResult(reply, result.verdict, total_ms, result.threshold, result.group_maps)
