"""OpenTelemetry, where the operator wants it: a span for every frame, with a child for each of its stages.

Where spans go and which are kept is said by the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER).
Spans are sent from a thread; what it cannot keep up with is left out.
"""

from __future__ import annotations

from threading import Thread
from time import time_ns
from typing import TYPE_CHECKING

from agvas_runtime import __version__
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.metrics import WHOLE

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_S = 2.0
"""How long the end of the process waits for the last spans."""
ORDER = ("decode", "queue")
"""Stages that come before those of the engine, which are told in their order."""


class Tracing:
    """Makes spans of answers.

    Args:
        provider: where spans go; the one that OTEL_* describes where None.

    Raises:
        InputError: the extra `tracing` is not installed, or OTEL_* cannot be used.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider or _provider()
        self._tracer = self._provider.get_tracer("agvas", __version__)

    def frame(self, reply: pb.SegmentResponse, request_id: str = "", end_ns: int | None = None) -> None:
        """Make the spans of an answer that was made at this time, by the clock; now where None.

        Durations are measured. Where a stage begins is not: they are laid one behind the other, up to the frame's end.
        """
        times = {timing.stage: max(int(timing.ms * 1e6), 0) for timing in reply.timings}
        end = time_ns() if end_ns is None else end_ns
        at = start = end - times.get("server", sum(time for stage, time in times.items() if stage not in WHOLE))
        attributes = {
            "agvas.camera": reply.identity.camera_id[:64],
            "agvas.part": reply.identity.part_id[:64],
            "agvas.status": pb.FrameStatus.Name(reply.status).removeprefix("FRAME_STATUS_"),
            "agvas.verdict": pb.Verdict.Name(reply.verdict).removeprefix("VERDICT_"),
            "agvas.anomaly": reply.scores.anomaly,
            "agvas.recipe": reply.recipe_name,
            "agvas.request_id": request_id,
            "agvas.model": reply.model.name,
            "agvas.bundle_sha256": reply.model.bundle_sha256,
        }
        span = self._tracer.start_span("frame", start_time=start, attributes=attributes)
        if span.is_recording():
            from opentelemetry.trace import set_span_in_context

            inside = set_span_in_context(span)
            for stage in sorted(times, key=lambda stage: ORDER.index(stage) if stage in ORDER else len(ORDER)):
                if stage not in WHOLE:
                    until = min(at + times[stage], end)
                    self._tracer.start_span(stage, context=inside, start_time=at).end(until)
                    at = until
        span.end(end)

    def close(self) -> None:
        """Send what is left, for a short time at most."""
        thread = Thread(target=self._provider.shutdown, name="tracing", daemon=True)
        thread.start()
        thread.join(FLUSH_S)


def _provider() -> TracerProvider:
    """Spans over OTLP (HTTP), in batches, as OTEL_* says."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found,unused-ignore]
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        reason = f"{error.name or error} is not installed: pip install 'agvas[tracing]'"
        raise InputError(f"tracing: {reason}") from None
    try:
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "agvas"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:
        raise InputError(f"tracing: OTEL_*: {' '.join(str(error).split())}") from None
    return provider
