"""The server's process: opens the port, starts the engines, reports readiness, drains and stops on a signal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic, time_ns

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from PIL import Image

from agvas_runtime.errors import EngineLost, NotNow
from agvas_runtime.modes import Request
from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc, inspection_pb2, inspection_pb2_grpc
from agvas_runtime.server.access import Access
from agvas_runtime.server.admin import MOST_WARM, AdminService
from agvas_runtime.server.answers import free_unread
from agvas_runtime.server.channel import MEBIBYTE, server_options
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.engine.arena import Arena, ArenaFull
from agvas_runtime.server.engine.pool import EnginePool
from agvas_runtime.server.engine.supervision import EngineState
from agvas_runtime.server.engine.task import EngineSpec, Task
from agvas_runtime.server.guard import CallEnd, Guard
from agvas_runtime.server.health_service import HealthService
from agvas_runtime.server.heap import keep_apart, keep_collected
from agvas_runtime.server.kserve import service as kserve
from agvas_runtime.server.kserve.model import SERVICE as INFERENCE
from agvas_runtime.server.kserve.reflected import Pools
from agvas_runtime.server.kserve.regions import Regions
from agvas_runtime.server.lanes import Lanes, Ticket
from agvas_runtime.server.later import Later
from agvas_runtime.server.local import LocalServer
from agvas_runtime.server.logs import CallLog
from agvas_runtime.server.metrics import Live, Metrics
from agvas_runtime.server.metrics_http import MetricsServer
from agvas_runtime.server.notify import notify
from agvas_runtime.server.port import open_port
from agvas_runtime.server.recipes import NamedRecipe, RecipeBook
from agvas_runtime.server.requests import Intake
from agvas_runtime.server.service import DECODERS, InspectionService
from agvas_runtime.server.signals import heard
from agvas_runtime.server.tally import Cameras
from agvas_runtime.server.tracing import Tracing
from agvas_runtime.writer import Decoding

INSPECTION: str = inspection_pb2.DESCRIPTOR.services_by_name["Inspection"].full_name
ADMIN: str = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name
HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SPARE_WORKERS = 40
"""Threads beyond those of calls and streams: more than there are calls that wait for a message, `MOST_SILENT`."""
SPARE_CALLS = 128
"""Calls beyond these threads: health, reflection and administration have threads of their own, and replies wait to be
taken."""
STOPPED = "the server is being stopped"
FINISH_S = 1.0
"""How long engines may take to end."""
LOOK_S = 0.1
"""How often a signal is looked for while something else is waited for."""

log = logging.getLogger("agvas.server")


class InspectionServer:
    """A running server. `start` returns once it answers; `stop` lets it answer what it has accepted.

    Args:
        config: what to serve, and where.

    Raises:
        EngineError: a port is taken or cannot be opened, or an engine fails; EngineLost where `abandon` came first.
        BundleError: the bundle is refused.
        InputError: a recipe, a certificate or the access file cannot be used.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config, self._began = config, monotonic()
        self._refusing = ""
        self._calls, self._later = CallLog(), Later()
        self._cameras, self._lanes = Cameras(), Lanes()
        self._spare = self._lanes.open("recipes", "block", MOST_WARM)
        self._closing = ExitStack()
        self._telling = threading.Lock()
        self._health = HealthService([INSPECTION, ADMIN, INFERENCE])
        self._arena = Arena(config.max_memory_mb * MEBIBYTE)
        self._closing.callback(self._arena.close)
        self._closing.callback(self._later.close)
        try:
            self._open()
        except BaseException:
            self._closing.close()
            raise

    def _open(self) -> None:
        config = self._config
        self._book = RecipeBook(config.recipes)
        spec = replace(config.engine_spec(), warm=self._requests(config.engine_spec().warm))
        devices = config.devices or ("",)
        self._pool = EnginePool(
            spec,
            self._lanes,
            self._arena,
            devices=devices,
            hang_s=config.hang_s,
            on_change=self._engines_changed,
            on_batch=lambda size: self._later.add(lambda: self._metrics.batch(size)),
        )
        self._service = InspectionService(
            Intake(self._book, self._arena, int(config.max_megapixels * 1e6)),
            self._lanes,
            self._pool,
            self._answered,
            self._cameras.opened,
            max_waiting=config.max_waiting,
            max_streams=config.max_streams,
            rate_per_s=config.rate_per_s,
            max_pixels=int(config.max_megapixels * 1e6),
        )
        regions = Regions(config.max_memory_mb * MEBIBYTE)
        self._closing.callback(regions.close)
        self._kserve = kserve.KServeService(
            self._service,
            self._why_not,
            regions,
            max_pixels=int(config.max_megapixels * 1e6),
            most_bytes=config.max_message_mb * MEBIBYTE,
        )
        self._metrics = Metrics(
            Live(
                waiting=lambda: self._lanes.waiting,
                streams=lambda: self._service.open_streams,
                engines=self._pool.engines,
                bundle=self._bundle,
                recipes_broken=lambda: sum(bool(state.error) for state in self._book.states()),
            )
        )
        self._tracing = Tracing() if config.tracing else None
        self._server = self._grpc_server()
        self.host, self.port = config.host, open_port(self._server, config)
        self.metrics_port = self._open_metrics()
        self._register(spec)
        self._local: LocalServer | None = None
        if config.local is not None:
            self._local = LocalServer(config.local, self._service, self._ended, config.max_message_mb * MEBIBYTE)
            self._closing.callback(self._local.close)

    @property
    def model(self) -> inspection_pb2.ModelIdentity:
        """What answers now."""
        facts = self._pool.facts
        return inspection_pb2.ModelIdentity(name=facts.name, bundle_sha256=facts.bundle_sha256)

    def engines(self) -> list[EngineState]:
        """The engine processes."""
        return self._pool.engines()

    def start(self) -> None:
        """Load the engines, then begin to answer."""
        self._pool.start()
        Image.preinit()  # the first encoded frame would wait for PIL's decoders otherwise
        self._book.on_change = self._warm
        self._book.watch()
        self._server.start()
        if self._local is not None:
            self._local.start()
        self._set_health()

    def abandon(self) -> None:
        """Let a `start` that is under way raise EngineLost."""
        self._pool.stop(0)

    def stop(self, hurried: threading.Event | None = None) -> None:
        """Report NOT_SERVING, refuse new work, answer what was accepted in the time there is, free everything.

        Args:
            hurried: set where there is no more time for that.
        """
        notify("STOPPING=1")
        self._refuse(STOPPED)
        self._service.stop(STOPPED)
        self._kserve.stop(STOPPED)
        self._admin.stop(STOPPED)
        self._health.close()
        until = monotonic() + self._config.drain_s
        ended = self._server.stop(self._config.drain_s)
        while not ended.wait(LOOK_S):
            if hurried is not None and hurried.is_set():
                self._server.stop(0)
        if self._local is not None:
            self._local.stop(max(until - monotonic(), 0.0), lambda: hurried is not None and hurried.is_set())
        # Nobody waits for an answer any more; an engine that still computes one may end by itself, but not for long.
        self._pool.stop(0.0 if hurried is not None and hurried.is_set() else FINISH_S)
        self._book.close()
        self._later.settle()
        if self._tracing is not None:
            self._tracing.close()
        self._closing.close()

    def drain(self) -> int:
        """Refuse new frames and wait for the others; how many these were. Raises NotNow where that takes too long."""
        unanswered, until = self._lanes.unanswered, monotonic() + self._config.drain_s
        self._refuse("the server is drained: it takes no new frames")
        drained = self._lanes.wait_drained(self._config.drain_s)
        if not drained or not self._service.wait_idle(max(until - monotonic(), 0)):
            raise NotNow(f"frames are still being answered after {self._config.drain_s:g} s; no new ones are taken")
        return unanswered

    def statistics(self) -> admin_pb2.Statistics:
        """Figures so far."""
        self._later.settle()
        reason = self._why_not()
        return admin_pb2.Statistics(
            uptime_s=monotonic() - self._began,
            serving=not reason,
            reason=reason,
            draining=bool(self._refusing),
            model=self.model,
            engines=[
                admin_pb2.EngineState(
                    device=engine.device,
                    pid=engine.pid,
                    ready=engine.ready,
                    restarts=engine.restarts,
                    last_death=engine.last_death,
                    memory_bytes=engine.memory_bytes,
                    ms_per_frame=engine.ms_per_frame,
                )
                for engine in self._pool.engines()
            ],
            cameras=self._cameras.states(),
            recipes=self._book.states(),
            waiting=self._lanes.waiting,
        )

    def _why_not(self) -> str:
        """Why no frames are taken; empty when they are."""
        return self._refusing or self._pool.reason

    def _refuse(self, reason: str) -> None:
        self._refusing = self._refusing or reason
        self._service.refuse(self._refusing)
        self._lanes.refuse(self._refusing)
        self._set_health()

    def _requests(self, first: tuple[Request, ...]) -> tuple[Request, ...]:
        """These, and those of the recipes."""
        return (*first, *(recipe.request for recipe in self._book.all()[:MOST_WARM]))

    def _grpc_server(self) -> grpc.Server:
        config = self._config
        workers = config.max_streams + config.max_waiting + SPARE_WORKERS
        access = None
        if config.access is not None:
            access = Access(config.access, certificates=config.client_ca is not None)
        self._guard = guard = Guard(
            access,
            rate_per_s=config.rate_per_s,
            most_open=workers + SPARE_CALLS,
            decoders={**DECODERS, **kserve.DECODERS},
            on_end=self._ended,
        )
        self._closing.callback(guard.close)
        return grpc.server(
            ThreadPoolExecutor(workers, thread_name_prefix="grpc"),
            options=server_options(config.max_message_mb),
            interceptors=[guard],
            maximum_concurrent_rpcs=workers + SPARE_CALLS,
        )

    def _register(self, spec: EngineSpec) -> None:
        self._admin = AdminService(
            self._pool,
            self._arena,
            spec,
            self._book,
            self._config.bundle_root,
            drain=self.drain,
            statistics=self.statistics,
            swapped=self._metrics.swap,
        )
        inspection_pb2_grpc.add_InspectionServicer_to_server(self._service, self._server)
        admin_pb2_grpc.add_AdminServicer_to_server(self._admin, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        kserve.add_to(self._server, self._kserve)
        names = (INSPECTION, ADMIN, HEALTH, INFERENCE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, Pools())
        self._set_health()

    def _open_metrics(self) -> int | None:
        config = self._config
        if config.metrics_port is None:
            return None
        server = MetricsServer(config.metrics_host, config.metrics_port, self._render, self._why_not)
        self._closing.callback(server.close)
        return server.port

    def _bundle(self) -> tuple[str, str]:
        """Name and hash of what answers; empty until the first engine is ready."""
        try:
            return self.model.name, self.model.bundle_sha256
        except EngineLost:
            return "", ""

    def _render(self) -> bytes:
        self._later.settle()
        return self._metrics.render()

    def _answered(self, reply: inspection_pb2.SegmentResponse, request_id: str) -> None:
        now_ns = time_ns()

        def count() -> None:
            self._cameras.count(reply)
            self._metrics.frame(reply)
            if self._tracing is not None:
                self._tracing.frame(reply, request_id, now_ns)

        self._later.add(count)

    def _ended(self, call: CallEnd) -> None:
        self._later.add(lambda: self._metrics.call(call.method, call.code))
        self._calls.ended(
            call.method,
            call.code,
            call.reason,
            request_id=call.caller.request_id,
            peer=call.caller.peer,
            principal=call.caller.name,
            seconds=round(call.seconds, 6),
        )

    def _warm(self, recipes: list[NamedRecipe]) -> None:
        """Have a black frame asked as a new recipe asks, so that no real one is the first."""
        for recipe in recipes[:MOST_WARM]:
            try:
                block = self._arena.place(np.zeros((64, 64, 3), np.uint8))
            except ArenaFull:
                return
            ticket = Ticket(block, Task(recipe.request, decoding=Decoding(max_new_tokens=1)), spare=True)
            ticket.outcome.add_done_callback(free_unread)
            self._spare.offer(ticket)

    def _engines_changed(self) -> None:
        log.debug("%s", self._pool.reason or f"ready: {self._pool.facts.name}")  # deaths are told by the pool
        self._set_health()

    def _set_health(self) -> None:
        with self._telling:  # threads that change places in here would leave the older news behind
            self._health.set(not self._why_not())


def serve(config: ServerConfig, ready: Callable[[InspectionServer], None]) -> None:
    """Serve until SIGINT or SIGTERM, from the main thread; a second one does not wait for answers any more.

    Args:
        config: what to serve, and where.
        ready: called once the server answers.
    """
    keep_apart()
    stopped, hurried, started = (threading.Event() for _ in range(3))

    def stop() -> None:
        (hurried if stopped.is_set() else stopped).set()

    with heard(stop):
        server = InspectionServer(config)
        threading.Thread(target=_abandon, args=(server, stopped, started), daemon=True).start()
        try:
            server.start()
            keep_collected()
            started.set()
            if not stopped.is_set():
                ready(server)
                stopped.wait()
        except EngineLost:
            if not stopped.is_set():
                raise
        finally:
            started.set()
            server.stop(hurried)


def _abandon(server: InspectionServer, stopped: threading.Event, started: threading.Event) -> None:
    """Let a start go when a signal comes before it is done."""
    while not started.wait(LOOK_S):
        if stopped.is_set():
            server.abandon()
            return
