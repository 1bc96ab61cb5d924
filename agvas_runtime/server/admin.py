"""The `Admin` service: what an operator does with a running server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from time import monotonic

import grpc

from agvas_runtime.console import one_line
from agvas_runtime.errors import EngineError, InputError, NotNow
from agvas_runtime.proto.agvas.v1 import admin_pb2 as pb
from agvas_runtime.proto.agvas.v1 import admin_pb2_grpc as pb_grpc
from agvas_runtime.proto.agvas.v1.inspection_pb2 import ModelIdentity
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.pool import EnginePool
from agvas_runtime.server.engine.task import EngineFacts, EngineSpec
from agvas_runtime.server.recipes import RecipeBook
from agvas_runtime.server.swap import Limits, Shadow
from agvas_runtime.server.trial import Trial, bundle_folder

REPORT_FRAMES, REPORT_S = 10, 1.0
"""Most frames, and longest time, between two events of a shadow run."""
MOST_WARM = 32
"""Recipes whose first frame is as fast as the next ones after a swap."""

log = logging.getLogger("agvas.admin")


class AdminService(pb_grpc.AdminServicer):
    """Answers `Swap`, `ReloadRecipes`, `Drain` and `GetStatistics`.

    Args:
        pool: the engines in service.
        arena: where frames lie.
        spec: what the engines were started with; a swap changes its bundle.
        book: the recipes.
        bundle_root: the folder below which bundles are found; without one there is no swap.
        drain: refuses new frames, waits for the others and returns how many these were.
        statistics: of the server now.
        swapped: told how a swap ended that was not called off: "switched", "refused", "compared".
    """

    def __init__(
        self,
        pool: EnginePool,
        arena: Arena,
        spec: EngineSpec,
        book: RecipeBook,
        bundle_root: Path | None,
        *,
        drain: Callable[[], int],
        statistics: Callable[[], pb.Statistics],
        swapped: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._pool, self._arena, self._spec, self._book, self._bundle_root = pool, arena, spec, book, bundle_root
        self._drain, self._statistics, self._swapped = drain, statistics, swapped
        self._swapping = Lock()
        self._trial: Trial | None = None

    def stop(self, reason: str) -> None:
        """Give up a swap that is under way, also while its bundle loads. The server is draining by then."""
        trial = self._trial
        if trial is not None:
            trial.abandon(NotNow(reason))

    def Swap(self, request: pb.SwapRequest, context: grpc.ServicerContext) -> Iterator[pb.SwapEvent]:
        """Replace the bundle by one that was compared with it. Whoever closes the iterator calls it off."""
        limits = Limits.of(request)
        folder = bundle_folder(self._bundle_root, request.bundle)
        self._check_running()
        if not self._swapping.acquire(blocking=False):
            raise NotNow("another swap is under way: wait for its end, or cancel it")
        try:
            yield from self._swap(request, folder, limits, context)
        finally:
            self._trial = None
            self._swapping.release()

    def ReloadRecipes(self, request: pb.ReloadRecipesRequest, context: grpc.ServicerContext) -> pb.RecipesResponse:
        """Read the recipes again."""
        return pb.RecipesResponse(recipes=self._book.reload())

    def Drain(self, request: pb.DrainRequest, context: grpc.ServicerContext) -> pb.DrainResponse:
        """Answer what was accepted and refuse the rest."""
        return pb.DrainResponse(answered=self._drain())

    def GetStatistics(self, request: pb.GetStatisticsRequest, context: grpc.ServicerContext) -> pb.Statistics:
        """Figures so far."""
        return self._statistics()

    def _check_running(self) -> None:
        told = self._statistics()
        if told.draining:
            raise NotNow(told.reason)

    def _swap(
        self, request: pb.SwapRequest, folder: Path, limits: Limits, context: grpc.ServicerContext
    ) -> Generator[pb.SwapEvent, None, None]:
        """Every event of a swap, the last one once it is over and done."""
        event = pb.SwapEvent(phase=pb.SwapEvent.PHASE_LOADING, **{"from": _identity(self._pool.facts)})
        yield _copy(event)
        spec = self._new_spec(folder)
        try:
            with Trial(self._pool.spawn(spec), context) as trial:
                self._trial = trial
                self._check_running()  # `stop` may have come before there was a trial
                event.to.CopyFrom(_identity(trial.load(request.bundle, folder)))
                shadow = Shadow(trial.engines[0], self._arena, limits.shadow_frames)
                yield from self._shadowed(shadow, trial, event, limits)
                if limits.shadow_frames:
                    event.comparison.CopyFrom(shadow.comparison())
                event.reason = shadow.failed(limits) or ""
                if not event.reason and not request.dry_run:
                    trial.settle(lambda: self._pool.replace(trial.engines, spec))
        except InputError:
            self._swapped("refused")
            raise
        except EngineError as error:
            event.reason = one_line(str(error).replace(str(folder), request.bundle)) or "its engine failed"
        done = pb.SwapEvent.PHASE_COMPARED if request.dry_run else pb.SwapEvent.PHASE_SWITCHED
        event.phase = pb.SwapEvent.PHASE_REFUSED if event.reason else done
        outcome = pb.SwapEvent.Phase.Name(event.phase).removeprefix("PHASE_").lower()
        self._swapped(outcome)
        log.info("swap to %s: %s%s", request.bundle, outcome, f", {event.reason}" if event.reason else "")
        yield _copy(event)

    def _shadowed(
        self, shadow: Shadow, trial: Trial, event: pb.SwapEvent, limits: Limits
    ) -> Generator[pb.SwapEvent, None, None]:
        """The events of a shadow run, until it is over or its time is up."""
        until = monotonic() + limits.shadow_timeout_s
        event.phase = pb.SwapEvent.PHASE_SHADOW
        over = not limits.shadow_frames
        self._pool.observe = shadow.observe
        try:
            while not over:
                event.comparison.CopyFrom(shadow.comparison())
                trial.check()
                self._check_running()
                yield _copy(event)
                compared = event.comparison.frames + event.comparison.errors
                over = shadow.wait(compared + REPORT_FRAMES, min(REPORT_S, until - monotonic()))
                over = over or monotonic() >= until
        finally:
            self._pool.observe = None
            shadow.close()
        trial.check()

    def _new_spec(self, folder: Path) -> EngineSpec:
        """What the new engines load, ready for the recipes as they are now."""
        recipes = [recipe.request for recipe in self._book.all()][:MOST_WARM]
        return replace(self._spec, bundle=folder, warm=tuple(dict.fromkeys((*self._spec.warm, *recipes))))


def _identity(facts: EngineFacts) -> ModelIdentity:
    return ModelIdentity(name=facts.name, bundle_sha256=facts.bundle_sha256)


def _copy(event: pb.SwapEvent) -> pb.SwapEvent:
    """The event as it is now: it is changed while its caller still has the last one."""
    copy = pb.SwapEvent()
    copy.CopyFrom(event)
    return copy
