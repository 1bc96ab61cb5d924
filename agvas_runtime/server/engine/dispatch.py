"""Brings frames from the lanes to one device's engine, and its answers to whoever waits for them, in its own thread.

A long answer is written beside other frames, in a further thread. When the engine dies its frames go back to the lanes
for a second attempt. An engine has at most one second attempt at a time: where that frame is what kills engines, it
takes no other along whose second attempt it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Condition, Thread
from time import perf_counter

from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.server.engine.idle import Idleness
from agvas_runtime.server.engine.process import EngineDied, EngineProcess
from agvas_runtime.server.engine.supervision import Supervised
from agvas_runtime.server.engine.task import FrameResult
from agvas_runtime.server.lanes import Answered, Lanes, Ticket

MOST_STREAMS = 4
"""Answers that an engine writes at a time, token by token: each holds memory of the engine's."""
POLL_S = 0.25
"""How soon it is noticed that an engine without frames is dead."""

Observer = Callable[[Ticket, Answered], None]
Answers = Callable[[Sequence[FrameResult]], None]
"""Takes the results of frames, in their order."""


@dataclass
class Surroundings:
    """What all dispatchers of a pool share."""

    lanes: Lanes
    idleness: Idleness
    log: logging.Logger
    freed: Callable[[], None]
    """Called when an engine has a place for another long answer."""
    batched: Callable[[int], None] = lambda size: None
    """Called with the number of frames that an engine has answered together."""
    observe: Observer | None = None
    """Called with every answered frame, just before its caller has it."""


class Dispatcher:
    """One engine's. It begins with `start` and ends with `leave`."""

    def __init__(self, engine: Supervised, around: Surroundings) -> None:
        self.engine = engine
        self.streams = 0
        """Long answers that are being written."""
        self._around, self._lanes = around, around.lanes
        self._again = False
        """Whether a frame is in the engine for the second time."""
        self._places = Condition()
        self._leaving = False
        self._patience_s = 0.0
        self._thread = Thread(target=self._run, name=f"dispatcher {engine.device}".rstrip(), daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def leave(self, patience_s: float) -> None:
        """Take no frame any more. The engine may finish what it has, if that takes no longer; then it is closed."""
        self._patience_s, self._leaving = patience_s, True
        self.engine.end()
        self._lanes.wake()

    def left(self, timeout_s: float | None = None) -> bool:
        """Wait until the engine is closed; whether it is."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def take_place(self, again: bool) -> EngineProcess | None:
        """The engine, if it is ready and has a place for one more long answer; then call `free_place` after it."""
        process = self.engine.process
        if process is None or not process.alive:
            return None
        with self._places:
            if self._leaving or self.streams >= MOST_STREAMS or (again and self._again):
                return None
            self._occupy(again)
        return process

    def free_place(self, again: bool) -> None:
        """The answer is written, or never will be."""
        with self._places:
            self.streams -= 1
            self._again &= not again
            self._places.notify_all()
        self._lanes.wake()
        self._around.freed()

    def _occupy(self, again: bool) -> None:
        self.streams += 1
        self._again |= again

    def _run(self) -> None:
        while not self._leaving and (process := self.engine.ready()) is not None:
            best_batch = process.facts.best_batch if process.facts else 1
            tickets = self._lanes.take(best_batch, POLL_S, self._wanted)
            if tickets:
                self._around.idleness.busy()
                self._bring(process, tickets)
            elif not process.alive:
                self._bury(process)
            elif not self.streams:
                self._around.idleness.trim()
        with self._places:
            self._places.wait_for(lambda: not self.streams, self._patience_s)
        self.engine.close()

    def _wanted(self, ticket: Ticket) -> bool:
        """Whether the engine may have this frame now. The lanes call it."""
        if self._leaving or (ticket.attempts and self._again):
            return False
        return not ticket.task.long or self.streams < MOST_STREAMS

    def _bring(self, process: EngineProcess, tickets: list[Ticket]) -> None:
        """Have frames answered: short answers now, a long one beside others."""
        first, again = tickets[0], tickets[0].attempts > 0
        if first.task.long:
            with self._places:
                self._occupy(again)
            writing = Thread(target=self._write, args=(process, first, again), name="answer", daemon=True)
            try:
                writing.start()
            except RuntimeError as error:  # the system has no thread left
                self.free_place(again)
                self._fail(first, EngineError(f"the answer cannot be written beside others: {error}"))
        else:
            with self._places:
                self._again |= again
            self._segment(process, tickets)
            with self._places:
                self._again &= not again

    def _segment(self, process: EngineProcess, tickets: list[Ticket]) -> None:
        blocks, tasks = [ticket.block for ticket in tickets], [ticket.task for ticket in tickets]
        self._attempt(
            process,
            tickets,
            lambda answered: process.segment(
                blocks, tasks, lambda: all(ticket.settled for ticket in tickets), answered
            ),
        )

    def _write(self, process: EngineProcess, ticket: Ticket, again: bool) -> None:
        def written(answered: Answers) -> None:
            with closing(process.stream(ticket.block, ticket.task, lambda: ticket.settled)) as events:
                answered([event for event in events if isinstance(event, FrameResult)])

        try:
            self._attempt(process, [ticket], written)
        finally:
            self.free_place(again)

    def _attempt(self, process: EngineProcess, tickets: list[Ticket], work: Callable[[Answers], object]) -> None:
        """Have frames worked on, and answer them whatever comes of it; `work` hands over results as it has them."""
        if not process.alive:  # it died before; these may be the frames that it died on, and it not be known yet
            self._bury(process)
            for ticket in tickets:
                ticket.end()
                self._lanes.give_back(ticket)
            return
        handed = perf_counter()

        def answered(results: Sequence[FrameResult]) -> None:
            self.engine.answered()
            self._around.batched(len(tickets))
            for ticket, result in list(zip(tickets, results, strict=True)):
                self._answer(process, ticket, result, handed)

        try:
            work(answered)
        except EngineDied as death:
            self.engine.died(process, death.reason)
            for ticket in tickets:
                ticket.end()
                self._lanes.retry(ticket, death.reason)
        except Cancelled:
            for ticket in tickets:
                ticket.end()
                ticket.cancel()
        except Exception as error:
            if len(tickets) == 1:
                self._fail(tickets[0], error)
                return
            for ticket in tickets:  # one of them may have spoilt the others
                self._segment(process, [ticket])

    def _bury(self, process: EngineProcess) -> None:
        """It was found dead."""
        process.close(0.0)  # how it ended is known after that
        self.engine.died(process, process.death or "for an unknown reason")

    def _answer(self, process: EngineProcess, ticket: Ticket, result: FrameResult, handed: float) -> None:
        assert process.facts is not None
        answered = Answered(result, process.facts, (handed - ticket.queued) * 1000, ticket.block)
        try:
            if (observe := self._around.observe) is not None and not ticket.spare:
                observe(ticket, answered)
        except Exception:
            self._around.log.exception("whoever observes the answers failed")
        ticket.end(answered)

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        """A graph failed on a frame, and would again."""
        if not isinstance(error, EngineError | InputError):
            self._around.log.error("an engine failed in a way that nobody foresaw", exc_info=error)
            error = EngineError(f"{type(error).__name__}: {error}")
        ticket.end()
        ticket.give_up(error)
