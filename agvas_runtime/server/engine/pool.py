"""The engines of a server: a process a device, each with its dispatcher. They can be replaced while frames come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import Condition, RLock
from time import monotonic

from agvas_runtime.errors import Cancelled, EngineError, EngineLost
from agvas_runtime.server.engine.arena import Arena, Block
from agvas_runtime.server.engine.dispatch import Dispatcher, Observer, Surroundings
from agvas_runtime.server.engine.idle import Idleness
from agvas_runtime.server.engine.messages import Event
from agvas_runtime.server.engine.process import EngineDied, EngineProcess
from agvas_runtime.server.engine.supervision import EngineState, Supervised
from agvas_runtime.server.engine.task import EngineFacts, EngineSpec, Task
from agvas_runtime.server.lanes import Lanes

FINISH_S = 30.0
"""How long a replaced engine may write answers that it has begun."""
ASK_S = 0.1
"""How often a caller who waits for a place is asked whether it still wants one."""
STOPPED = "the server is being stopped"


class EnginePool:
    """Answers the frames that the lanes hold.

    Args:
        spec: what the engines load.
        lanes: where frames wait.
        arena: where frames are.
        devices: of each, CUDA_VISIBLE_DEVICES of its process; the server's own where empty.
        hang_s: an engine that says nothing for so long is killed.
        on_change: called when `ready`, `reason` or `facts` changed; must not block.
        on_batch: called with the number of frames that were segmented together; must not block.
        log: gets a line for every death.
    """

    def __init__(
        self,
        spec: EngineSpec,
        lanes: Lanes,
        arena: Arena,
        *,
        devices: Sequence[str] = ("",),
        hang_s: float = 120.0,
        on_change: Callable[[], None] = lambda: None,
        on_batch: Callable[[int], None] = lambda size: None,
        log: logging.Logger = logging.getLogger("agvas.engine"),
    ) -> None:
        self.reason = "the engine is starting"
        """Why no engine is ready; empty where one is."""
        self._spec, self._lanes, self._arena, self._hang_s = spec, lanes, arena, hang_s
        self._devices, self._on_change, self._log = tuple(devices), on_change, log
        self._facts: EngineFacts | None = None
        self._failing = self._stopped = False
        self._dispatchers: list[Dispatcher] = []
        self._replaced: list[Dispatcher] = []
        self._changing, self._places = RLock(), Condition()
        self._around = Surroundings(lanes, Idleness(arena), log, self._freed, on_batch)

    @property
    def ready(self) -> bool:
        """Whether an engine is."""
        return not self.reason

    @property
    def facts(self) -> EngineFacts:
        """Of the engine that is ready, or was the last to be. Not before `start`."""
        if self._facts is None:
            raise EngineLost(self.reason)
        return self._facts

    @property
    def observe(self) -> Observer | None:
        """Called with every answered frame just before its caller gets it: the block is there, and may be retained.

        Must not block.
        """
        return self._around.observe

    @observe.setter
    def observe(self, observer: Observer | None) -> None:
        self._around.observe = observer

    def engines(self) -> list[EngineState]:
        """One a device, also before the first one is ready."""
        if not self._dispatchers:
            return [EngineState(device, 0, False, 0, "", 0) for device in self._devices]
        return [dispatcher.engine.state() for dispatcher in self._dispatchers]

    def start(self) -> EngineFacts:
        """Start the engines; returns when one is ready.

        Raises what the first start raised where none becomes ready: BundleError, InputError, EngineError; EngineLost
        where `stop` came before.
        """
        processes = self.spawn(self._spec)
        try:
            facts = self._first_ready(processes)
            self._begin(processes, self._spec)
        except BaseException:
            for process in processes:
                process.close(0.0)
            raise
        return facts

    def spawn(self, spec: EngineSpec) -> list[EngineProcess]:
        """Start processes for `replace`, one a device. They are not ready yet, and the caller's to close.

        Raises EngineError where the system starts none.
        """
        processes: list[EngineProcess] = []
        try:
            for device in self._devices:
                processes.append(self._process(spec, device))
        except EngineDied as error:
            for process in processes:
                process.close(0.0)
            raise EngineError(error.reason) from None
        return processes

    def replace(self, candidates: Sequence[EngineProcess], spec: EngineSpec) -> None:
        """Give new frames to other engines, those of `spawn`. The old ones finish what they have and are closed.

        Raises EngineLost after `stop`; the candidates remain the caller's then.
        """
        self._begin(candidates, spec)

    def stop(self, timeout_s: float) -> None:
        """Answer frames that wait REFUSED, let the engines finish what they have in this time, and end them."""
        with self._changing:
            self._stopped = True
            leaving = self._dispatchers + self._replaced
        self._lanes.close(STOPPED)
        self._changed()
        until = monotonic() + timeout_s
        for dispatcher in leaving:
            dispatcher.leave(timeout_s)
        for dispatcher in leaving:
            if not dispatcher.left(max(until - monotonic(), 0)):
                dispatcher.engine.kill()
        for dispatcher in leaving:
            dispatcher.left()

    def stream(
        self,
        block: Block,
        task: Task,
        cancelled: Callable[[], bool] = lambda: False,
        given_to: Callable[[EngineFacts], None] = lambda facts: None,
    ) -> Generator[Event, None, None]:
        """Have a frame's answer written, see `Segmenter.stream`. The block remains the caller's.

        When the engine dies it is written once more, and what was passed on already is left out. `given_to` is called
        with the facts of the engine that writes, before each first event.

        Raises EngineLost, EngineError, InputError, Cancelled.
        """
        passed_on, bundle, reason = 0, "", ""
        for again in (False, True):
            dispatcher, process, facts = self._place(cancelled, again)
            try:
                if passed_on and facts.bundle_sha256 != bundle:
                    raise EngineLost(f"the bundle was replaced after the engine died on this frame: {reason}")
                bundle = facts.bundle_sha256
                given_to(facts)
                with closing(process.stream(block, task, cancelled)) as events:
                    for number, event in enumerate(events):
                        if number >= passed_on:
                            passed_on += 1
                            yield event
                dispatcher.engine.answered()
                return
            except EngineDied as death:
                reason = death.reason
                dispatcher.engine.died(process, reason)
            finally:
                dispatcher.free_place(again)
        raise EngineLost(f"the engine died twice on this frame, the last time: {reason}")

    def _place(self, cancelled: Callable[[], bool], again: bool) -> tuple[Dispatcher, EngineProcess, EngineFacts]:
        """Wait for an engine with a place for a long answer; of several, the one that writes fewest."""
        while not cancelled():
            if self._stopped or self._failing:
                raise EngineLost(self.reason)
            for dispatcher in sorted(self._dispatchers, key=lambda dispatcher: dispatcher.streams):
                process = dispatcher.take_place(again)
                if process is not None and process.facts is not None:
                    self._around.idleness.busy()
                    return dispatcher, process, process.facts
            with self._places:
                self._places.wait(ASK_S)
        raise Cancelled("the answer is not wanted any more")

    def _freed(self) -> None:
        with self._places:
            self._places.notify_all()

    def _process(self, spec: EngineSpec, device: str) -> EngineProcess:
        return EngineProcess(replace(spec, device=device), self._arena, hang_s=self._hang_s)

    def _first_ready(self, processes: Sequence[EngineProcess]) -> EngineFacts:
        """The facts of the first one that is ready; raises what the first one raised where none will be."""
        errors: dict[EngineProcess, Exception] = {}
        while len(errors) < len(processes):
            for process in (process for process in processes if process not in errors):
                if self._stopped:
                    raise EngineLost(STOPPED)
                try:
                    return process.wait_ready(ASK_S)
                except TimeoutError:
                    continue
                except EngineDied as error:
                    errors[process] = EngineError(f"the engine process ended before it was ready: {error}")
                except Exception as error:
                    errors[process] = error
        raise errors[processes[0]]

    def _begin(self, processes: Sequence[EngineProcess], spec: EngineSpec) -> None:
        """Let these processes have the frames that come from now on."""
        with self._changing:
            if self._stopped:
                raise EngineLost(STOPPED)
            old, hashes = self._dispatchers, [process.facts.bundle_sha256 for process in processes if process.facts]
            spec = replace(spec, bundle_sha256=hashes[0])  # what is started again is the same
            before = {place: dispatcher.engine for place, dispatcher in enumerate(old)}  # a device may have several
            engines = [self._supervised(process, spec, before.get(place)) for place, process in enumerate(processes)]
            self._dispatchers = [Dispatcher(engine, self._around) for engine in engines]
            for dispatcher in old:
                dispatcher.leave(FINISH_S)
            for dispatcher in self._dispatchers:
                dispatcher.start()
            self._replaced = [dispatcher for dispatcher in [*self._replaced, *old] if not dispatcher.left(0)]
        self._changed()

    def _supervised(self, process: EngineProcess, spec: EngineSpec, before: Supervised | None) -> Supervised:
        """An engine in the place of another one: deaths are counted from the server's start."""
        device = process.spec.device
        made = Supervised(process, partial(self._process, spec, device), self._changed, self._log)
        if before is not None:
            made.restarts, made.last_death = before.restarts, before.last_death
        return made

    def _changed(self) -> None:
        """An engine became ready, or is not any more."""
        with self._changing:
            before = self.reason, self._facts
            engines = [dispatcher.engine for dispatcher in self._dispatchers]
            ready = [facts for engine in engines if (facts := engine.facts) is not None]
            self._failing = bool(engines) and not ready and all(engine.failing for engine in engines)
            if self._stopped:
                self.reason = STOPPED
            elif ready:
                self.reason, self._facts = "", ready[0]
                self._lanes.recover()
            elif engines:
                self.reason = engines[0].reason
            if self._failing:
                self._lanes.fail(self.reason)
            changed = before != (self.reason, self._facts)
        self._freed()
        if changed:
            try:
                self._on_change()
            except Exception:  # an engine's thread is about to go on
                self._log.exception("whoever is told of the engines' changes failed")
