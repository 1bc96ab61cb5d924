"""An engine process as the server has it: jobs go in, results come out. When it ends, its jobs end with the reason."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from agvas_runtime.server.engine.arena import Arena, Block
from agvas_runtime.server.engine.child import END_S, LOG, Child
from agvas_runtime.server.engine.messages import START, Answer, Cancel, Event, Failed, Next, Ready, Stop, Work, packed
from agvas_runtime.server.engine.task import EngineFacts, EngineSpec, FrameResult, Task

ASK_S = 0.05
"""How often a caller who waits is asked whether it still wants the answer."""


class EngineDied(Exception):
    """The engine process ended, or was ended, before it answered. Its text, one line, says how."""

    @property
    def reason(self) -> str:
        """Its text."""
        return str(self)


class _Job:
    """Work that the process has; until it says that this is over its blocks are its own, whatever the caller does."""

    def __init__(self, number: int, blocks: Sequence[Block], first: Callable[[Any], None] | None = None) -> None:
        self.number, self.blocks = number, blocks
        self.answers: SimpleQueue[Answer | Failed | Exception] = SimpleQueue()
        self._first = first
        self.over = False
        for block in blocks:
            block.retain()

    def answer(self, answer: Answer | Failed) -> None:
        """Pass on what the process says: to whoever wants to be told first, then to the caller."""
        told: Answer | Failed | Exception = answer
        if self._first is not None and isinstance(answer, Answer):
            try:
                self._first(answer.value)
            except Exception as error:  # the thread that hears the process must go on
                told = error
        self.answers.put(told)

    def end(self, *, release: bool = True) -> None:
        """The process does not touch the blocks any more; not to be released where that is not known."""
        self.over = True
        for block in self.blocks if release else ():
            block.release()


class EngineProcess:
    """A worker in a process of its own; jobs are for one that is ready. Threads may use it together.

    Args:
        spec: what it loads.
        arena: where the blocks are that it will be given.
        hang_s: it is killed where a batch, or a step of a stream, has no answer in this time.

    Raises:
        EngineDied: the system starts no process.
    """

    def __init__(self, spec: EngineSpec, arena: Arena, *, hang_s: float = 120.0) -> None:
        self.spec = spec
        self.facts: EngineFacts | None = None
        """Once it is ready."""
        self.death: str | None = None
        """How it ended, in one line; None while it lives."""
        self._arena, self._hang_s = arena, hang_s
        self._numbers = itertools.count(START + 1)
        self._lock, self._sending, self._closed = threading.Lock(), threading.Lock(), False
        self._jobs: dict[int, _Job] = {}
        self._owed: set[int] = set()  # jobs that the process has to say something to
        self._since: float | None = None  # when it last did, or when the first of them came
        self._started, self._refused = threading.Event(), Failed(START, "", "")
        child: Future[Child] = Future()
        self._life = threading.Thread(target=self._live, args=[child], name="engine-process", daemon=True)
        self._life.start()  # it makes the child, since it outlives it
        self._child = child.result()
        self.pid = self._child.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has no `death`; it may not be ready yet."""
        return self.death is None

    def wait_ready(self, timeout_s: float | None = None) -> EngineFacts:
        """Wait until it is ready.

        Raises:
            InputError, BundleError, EngineError: as it met them.
            EngineDied: it ended.
            TimeoutError: it is not ready yet; it goes on.
        """
        if not self._started.wait(timeout_s):
            raise TimeoutError(f"the engine process is not ready after {timeout_s:g} s")
        if self._refused.kind:
            raise self._refused.error()
        if self.death is not None or self.facts is None:
            raise EngineDied(self.death)
        return self.facts

    def segment(
        self,
        blocks: Sequence[Block],
        tasks: Sequence[Task],
        cancelled: Callable[[], bool] = lambda: False,
        answered: Callable[[list[FrameResult]], None] = lambda results: None,
    ) -> list[FrameResult]:
        """Segment frames together, each by its task; the tasks have one batch key.

        `answered` has the results first, in the thread that hears the process: it must not block, and what it raises
        is raised here.

        Raises EngineDied, EngineError, InputError, Cancelled.
        """
        job = self._submit(blocks, tasks, streamed=False, first=answered)
        results: Any = self._answer(job, cancelled).value
        return list(results)

    def stream(
        self, block: Block, task: Task, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Event, None, None]:
        """Segment a frame as its answer is written, see `Segmenter.stream`; the process is at most one event ahead.

        Closing it ends the writing.

        Raises EngineDied, EngineError, InputError, Cancelled.
        """
        job = self._submit([block], [task], streamed=True)
        try:
            while True:
                answer = self._answer(job, cancelled)
                if isinstance(answer.value, FrameResult):
                    yield answer.value
                    return
                self._send(Next(job.number))
                yield answer.value  # type: ignore[misc]
        finally:
            if not job.over:
                self._send(Cancel(job.number))

    def memory_bytes(self) -> int:
        """Resident memory of the process, RssAnon and RssFile; the arena, which is shared memory, counts for nobody."""
        return self._child.memory_bytes() if self.alive else 0

    def kill(self) -> None:
        """End it at once; its jobs end with EngineDied."""
        self._child.process.kill()

    def close(self, timeout_s: float = 5.0) -> None:
        """Let it finish what is in its engine, and end; it is killed where that takes longer."""
        self._closed = True
        self._send(Stop())
        self._life.join(timeout_s)
        self.kill()
        self._life.join(2 * END_S)

    def _submit(
        self,
        blocks: Sequence[Block],
        tasks: Sequence[Task],
        *,
        streamed: bool,
        first: Callable[[Any], None] | None = None,
    ) -> _Job:
        with self._lock:
            if self.death is not None:
                raise EngineDied(self.death)
            job = _Job(next(self._numbers), blocks, first)
            self._jobs[job.number] = job
        self._send(Work(job.number, tuple(block.token for block in blocks), packed(tuple(tasks)), streamed))
        return job

    def _send(self, message: Work | Next | Cancel | Stop) -> None:
        """Where the process is gone nothing is sent: its jobs are told by the thread that reads."""
        if isinstance(message, Work | Next):
            with self._lock:
                if message.job in self._jobs:  # else it has just ended
                    self._owed.add(message.job)
                    self._since = self._since or monotonic()
        with self._sending, suppress(OSError):
            self._child.link.send(message)

    def _answer(self, job: _Job, cancelled: Callable[[], bool]) -> Answer:
        told = False
        while True:
            if not told and cancelled():
                self._send(Cancel(job.number))
                told = True
            try:
                answer = job.answers.get(timeout=ASK_S)
            except Empty:
                continue
            if isinstance(answer, Answer):
                return answer
            raise answer.error() if isinstance(answer, Failed) else answer

    def _live(self, made: Future[Child]) -> None:
        """Start the process, hear what it says, and see to its end."""
        try:
            child = Child(self.spec, self._arena)
        except (
            Exception
        ) as error:  # whoever waits for it must hear of it; RuntimeError where threads are at their limit
            made.set_exception(EngineDied(f"no process can be started: {getattr(error, 'strerror', None) or error}"))
            return
        made.set_result(child)
        reason = None
        try:
            while (patience_s := self._patience_s()) > 0:
                if child.link.poll(patience_s):
                    self._hear(child.link.recv())
            reason = f"no answer for {self._hang_s:g} s"
            child.process.kill()
        except (EOFError, OSError):
            pass
        except Exception as error:
            LOG.exception("engine process %d: its answer cannot be read", child.process.pid)
            reason = f"its answer cannot be read: {type(error).__name__}"
            child.process.kill()
        self._end(child, reason)

    def _patience_s(self) -> float:
        """How long the process may still be silent. One that owes nothing may for ever."""
        with self._lock:
            return self._hang_s if self._since is None else self._since + self._hang_s - monotonic()

    def _hear(self, message: Ready | Answer | Failed) -> None:
        if isinstance(message, Ready):
            self.facts = message.facts
            self._started.set()
            return
        if message.job == START and isinstance(message, Failed):
            self._refused = message
            self._started.set()
            return
        last = isinstance(message, Failed) or message.last
        with self._lock:
            self._owed.discard(message.job)
            self._since = monotonic() if self._owed else None
            job = self._jobs.pop(message.job) if last else self._jobs[message.job]
        if last:
            job.end()
        job.answer(message)

    def _end(self, child: Child, reason: str | None) -> None:
        how = child.end()
        with self._lock:
            self.death = "it was closed" if self._closed else reason or how or "killed, but the kernel cannot end it"
            jobs, self._jobs = list(self._jobs.values()), {}
        with self._sending:
            child.link.close()
        for job in jobs:
            job.end(release=how is not None)  # what still runs may still write
            job.answers.put(EngineDied(self.death))
        self._started.set()
