"""What a server measures of itself, in Prometheus' text format. The HTTP port is in `metrics_http.py`.

What happens is counted by the methods of `Metrics`; what is (queues, streams, engines) is asked of `Live` when somebody
reads. Labels that callers choose are cut, made harmless, and bounded in number.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from agvas_runtime.console import one_line
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.gpu_memory import gpu_memory

Found = TypeVar("Found")

MOST_NAMES = 64
"""Distinct values of a label that callers choose; further ones are counted together."""
OTHERS, UNNAMED = "other", "unnamed"
LONGEST_NAME = 64
"""Characters of such a value."""
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WHOLE = ("server", "total")
"""Timings of a reply that are no stage but a sum of several."""

log = logging.getLogger("agvas.metrics")


class EngineFigures(Protocol):
    """What is told of an engine process."""

    @property
    def device(self) -> str:
        """CUDA_VISIBLE_DEVICES of the process, empty for the server's own."""

    @property
    def ready(self) -> bool:
        """Whether it takes frames."""

    @property
    def restarts(self) -> int:
        """Since the server's start."""

    @property
    def memory_bytes(self) -> int:
        """Resident memory of the process."""


@dataclass(frozen=True)
class Live:
    """Where to ask for what is; called from the threads that answer scrapes."""

    waiting: Callable[[], int] = lambda: 0
    """Frames in all queues."""
    streams: Callable[[], int] = lambda: 0
    """Open streams."""
    engines: Callable[[], Sequence[EngineFigures]] = tuple
    recipes_broken: Callable[[], int] = lambda: 0
    """Recipe files that are not in use as they are."""
    bundle: Callable[[], tuple[str, str]] = lambda: ("", "")
    """Name and hash of the bundle that serves."""


class Names:
    """Values of a label that callers choose: printable, short, and no more than so many. Safe to use from threads."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most, self._known = most, set[str]()
        self._lock = Lock()

    def of(self, text: str) -> str:
        """The value that stands for this text."""
        name = one_line(text[: 2 * LONGEST_NAME])[:LONGEST_NAME] or UNNAMED
        with self._lock:
            if name not in self._known:
                if len(self._known) >= self._most:
                    return OTHERS
                self._known.add(name)
        return name


class Metrics:
    """Counts what a server does. Every method is safe to call from any thread and raises nothing."""

    def __init__(self, live: Live | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._cameras, self._methods = Names(), Names()
        self._frames = Counter(
            "agvas_frames", "Answered frames by what became of them.", ("camera", "status"), registry=registry
        )
        self._verdicts = Counter("agvas_verdicts", "Verdicts given.", ("camera", "verdict"), registry=registry)
        self._scores = Histogram(
            "agvas_anomaly_score", "Anomaly scores of frames, 0 to 1.", ("camera",), buckets=SCORES, registry=registry
        )
        self._stages = Histogram(
            "agvas_stage_seconds", "Time of a frame in each stage.", ("stage",), buckets=SECONDS, registry=registry
        )
        self._server = Histogram(
            "agvas_frame_seconds", "Time from a frame's arrival to its answer.", buckets=SECONDS, registry=registry
        )
        self._batches = Histogram(
            "agvas_batch_size", "Frames that were segmented together.", buckets=BATCHES, registry=registry
        )
        self._calls = Counter("agvas_calls", "Finished calls.", ("method", "code"), registry=registry)
        self._swaps = Counter("agvas_swaps", "Swaps of the bundle by how they ended.", ("outcome",), registry=registry)
        registry.register(_Now(live or Live()))
        ProcessCollector(registry=registry)
        self._rendering = Lock()

    def frame(self, reply: pb.SegmentResponse) -> None:
        """Count an answer: its camera, status, verdict, score and the times of its stages."""
        camera = self._cameras.of(reply.identity.camera_id)
        self._frames.labels(camera, _short(pb.FrameStatus, reply.status, "FRAME_STATUS_")).inc()
        self._verdicts.labels(camera, _short(pb.Verdict, reply.verdict, "VERDICT_")).inc()
        if reply.HasField("scores"):
            self._scores.labels(camera).observe(reply.scores.anomaly)
        for timing in reply.timings:
            if timing.stage == "server":
                self._server.observe(timing.ms / 1000)
            elif timing.stage not in WHOLE:
                self._stages.labels(timing.stage).observe(timing.ms / 1000)

    def batch(self, size: int) -> None:
        """Count frames that were segmented together."""
        self._batches.observe(size)

    def call(self, method: str, code: str) -> None:
        """Count a finished call, of a method such as "/agvas.v1.Inspection/Segment", with a code such as "OK"."""
        self._calls.labels(self._methods.of(method), code).inc()

    def swap(self, outcome: str) -> None:
        """Count a swap that ended: "switched", "refused", "compared"."""
        self._swaps.labels(outcome).inc()

    def render(self) -> bytes:
        """All of it as Prometheus reads it."""
        with self._rendering:
            return bytes(generate_latest(self.registry))


class _Now(Collector):
    """What is at this moment, asked at every scrape. What cannot be told is left out."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        for name, text, ask in (
            ("queue_depth", "Frames that wait in all queues.", self._live.waiting),
            ("streams_open", "Open streams.", self._live.streams),
            ("recipes_broken", "Recipe files that are not in use as they are.", self._live.recipes_broken),
        ):
            value = _asked(name, ask)
            if value is not None:
                yield GaugeMetricFamily(f"agvas_{name}", text, value=value)
        name, sha256 = _asked("bundle", self._live.bundle) or ("", "")
        if sha256:
            info = GaugeMetricFamily("agvas_bundle_info", "The bundle that serves.", labels=("name", "sha256"))
            info.add_metric((one_line(name), sha256), 1)
            yield info
        yield from _engine_families(_asked("engines", self._live.engines) or ())
        used = GaugeMetricFamily("agvas_device_memory_used_bytes", "Memory in use on a GPU.", labels=("device",))
        total = GaugeMetricFamily("agvas_device_memory_bytes", "Memory of a GPU.", labels=("device",))
        for gpu in _asked("device_memory", gpu_memory) or ():
            used.add_metric((str(gpu.index),), gpu.used_bytes)
            total.add_metric((str(gpu.index),), gpu.total_bytes)
        yield from (family for family in (used, total) if family.samples)


def _engine_families(engines: Sequence[EngineFigures]) -> Iterator[Metric]:
    """Of engines by device; several on one device are one series."""
    ready = GaugeMetricFamily("agvas_engine_ready", "Engine processes that take frames.", labels=("device",))
    restarts = CounterMetricFamily("agvas_engine_restarts", "Restarts of engine processes.", labels=("device",))
    memory = GaugeMetricFamily("agvas_engine_memory_bytes", "Resident memory of engine processes.", labels=("device",))
    of_device: defaultdict[str, list[EngineFigures]] = defaultdict(list)
    for engine in engines:
        of_device[engine.device or "default"].append(engine)
    for device, some in of_device.items():
        ready.add_metric((device,), sum(engine.ready for engine in some))
        restarts.add_metric((device,), sum(engine.restarts for engine in some))
        memory.add_metric((device,), sum(engine.memory_bytes for engine in some))
    yield from (ready, restarts, memory)


def _asked(what: str, ask: Callable[[], Found]) -> Found | None:
    try:
        return ask()
    except Exception as error:  # a scrape must not fail as a whole
        log.warning("%s cannot be measured: %s", what, error)
        return None


def _short(kind: EnumTypeWrapper, number: int, prefix: str) -> str:
    """Name of an enum's value without its prefix; also of a number that has none."""
    try:
        return str(kind.Name(number)).removeprefix(prefix)
    except ValueError:
        return str(number)
