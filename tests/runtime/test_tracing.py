"""Spans of frames, as OpenTelemetry's own SDK sees them."""

import subprocess
import sys

import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import later
from agvas_runtime.server.tracing import Tracing
from tests.runtime.live_server import live_server, request

trace = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


@pytest.fixture
def tracing():
    """Tracing, and the spans that it has ended."""
    kept = memory.InMemorySpanExporter()
    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(kept))
    return Tracing(provider), kept


def reply(**timings: float) -> pb.SegmentResponse:
    answer = pb.SegmentResponse(
        identity=pb.FrameIdentity(camera_id="cam-1", part_id="part-2"),
        status=pb.FRAME_STATUS_OK,
        verdict=pb.VERDICT_REJECT,
        recipe_name="bracket",
        model=pb.ModelIdentity(name="agvas-tiny", bundle_sha256="ab"),
    )
    for stage, ms in timings.items():
        answer.timings.add(stage=stage, ms=ms)
    return answer


def test_a_frame_is_a_span_with_its_stages_one_behind_the_other(tracing):
    traced, kept = tracing
    traced.frame(reply(decode=1.0, encoders=4.0, total=9.0, queue=2.0, encode=0.5, server=8.0), "request-3")
    *stages, frame = kept.get_finished_spans()
    assert [span.name for span in stages] == ["decode", "queue", "encoders", "encode"]
    assert [span.end_time - span.start_time for span in stages] == [1_000_000, 2_000_000, 4_000_000, 500_000]
    assert all(span.parent.span_id == frame.context.span_id for span in stages)
    assert frame.parent is None
    assert frame.end_time - frame.start_time == 8_000_000
    assert [span.start_time for span in stages] == [frame.start_time, *(span.end_time for span in stages[:-1])]
    assert dict(frame.attributes) == {
        "agvas.camera": "cam-1",
        "agvas.part": "part-2",
        "agvas.status": "OK",
        "agvas.verdict": "REJECT",
        "agvas.anomaly": 0.0,
        "agvas.recipe": "bracket",
        "agvas.request_id": "request-3",
        "agvas.model": "agvas-tiny",
        "agvas.bundle_sha256": "ab",
    }


def test_stages_end_with_their_frame_even_where_some_ran_side_by_side(tracing):
    traced, kept = tracing
    traced.frame(reply(semantic=5.0, pixel=6.0, server=8.0))
    *stages, frame = kept.get_finished_spans()
    assert [span.end_time - frame.start_time for span in stages] == [5_000_000, 8_000_000]


def test_a_frame_without_a_result_is_a_span_too(tracing):
    traced, kept = tracing
    traced.frame(pb.SegmentResponse(status=pb.FRAME_STATUS_EXPIRED, verdict=pb.VERDICT_NO_ANSWER))
    (frame,) = kept.get_finished_spans()
    assert (frame.attributes["agvas.status"], frame.attributes["agvas.verdict"]) == ("EXPIRED", "NO_ANSWER")


def test_the_end_passes_on_what_is_left():
    kept = memory.InMemorySpanExporter()
    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(kept, schedule_delay_millis=3_600_000))
    traced = Tracing(provider)
    traced.frame(reply(server=1.0))
    assert kept.get_finished_spans() == ()
    traced.close()
    assert [span.name for span in kept.get_finished_spans()] == ["frame"]


def test_a_server_that_stops_passes_on_the_last_frame_s_span(tracing, monkeypatch):
    traced, kept = tracing
    monkeypatch.setattr(later, "PAUSE_S", 3600.0)
    with live_server() as live:
        live.server._tracing = traced
        live.inspection.Segment(request())
    assert [span.name for span in kept.get_finished_spans()].count("frame") == 1


def test_without_the_extra_tracing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(InputError, match=r"^tracing: .* not installed: pip install 'agvas\[tracing\]'$"):
        Tracing()


def test_nothing_of_opentelemetry_is_loaded_unless_it_is_wanted():
    code = "import sys, agvas_runtime.server.tracing; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
