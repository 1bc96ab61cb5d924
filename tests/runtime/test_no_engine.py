"""While engines die one after the other: frames are answered at once, everybody is told why, it ends by itself."""

import os
import signal

import grpc
import pytest
from grpc_health.v1 import health_pb2

from agvas_runtime.proto.agvas.v1 import admin_pb2
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from tests.runtime.live_server import NORMAL, WAIT_S, live_server, request, until

DIED = "the engine is not ready: it died: killed by signal 9"
STOP = pb.SegmentRequest(recipe=pb.Recipe(on_no_answer=pb.NO_ANSWER_ACTION_STOP))
Serving = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def running():
    with live_server() as live:
        yield live


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()


@pytest.fixture(scope="module")
def failing(running):
    """From here on every engine dies as soon as it is ready; in the end no longer."""
    told = running.pool._on_change

    def kill() -> None:
        if running.pool.ready:
            os.kill(running.pid, signal.SIGKILL)
        told()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running.pool, "_on_change", kill)
        running.kill()
        until(lambda: running.pool._failing)
        yield running
    running.as_new()


def test_health_follows_the_engine_and_a_heartbeat_says_why_it_is_not_there(live):
    told = live.health.Watch(health_pb2.HealthCheckRequest(service="agvas.v1.Inspection"), timeout=WAIT_S)
    assert next(told).status == Serving.SERVING
    stream = live.open(heartbeat_ms=100)
    assert stream.heartbeat() == pb.Heartbeat(serving=True)
    live.kill()
    assert [next(told).status, next(told).status] == [Serving.NOT_SERVING, Serving.SERVING]
    told.cancel()
    while (beat := stream.heartbeat()).serving:
        pass
    assert beat.reason.startswith(DIED)
    while not (beat := stream.heartbeat()).serving:
        pass
    assert beat == pb.Heartbeat(serving=True)


def test_while_the_first_restart_is_under_way_frames_wait(live):
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    call = live.inspection.Segment.future(request())
    live.kill()
    until(lambda: not live.pool.ready)
    stream.send(request())
    later = live.inspection.Segment(request())
    assert {later.status, stream.answers(1)[0].status, call.result().status} == {pb.FRAME_STATUS_OK}


def test_frames_that_wait_and_those_that_come_are_answered_at_once(failing):
    stream = failing.open(defaults=STOP)
    stream.send(request(), request(NORMAL, deadline_ms=60_000), pb.SegmentRequest())
    stream.finish()
    failed, also, invalid = stream.answers()
    for answer in (failed, also):
        assert (answer.status, answer.verdict) == (pb.FRAME_STATUS_ENGINE_FAILED, pb.VERDICT_NO_ANSWER)
        assert answer.gate == pb.GATE_STOP
        assert answer.reason.startswith(DIED)
        assert "times in a row without an answer; next start at" in answer.reason
    assert invalid.status == pb.FRAME_STATUS_INVALID
    assert stream.code() is grpc.StatusCode.OK


def test_calls_are_unavailable_and_health_is_not_serving(failing):
    for call in (failing.inspection.Segment, lambda asked: next(failing.inspection.Explain(asked))):
        with pytest.raises(grpc.RpcError) as caught:
            call(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details().startswith(DIED)
    until(lambda: not failing.serving())  # for a moment the next engine is there
    told = failing.admin.GetStatistics(admin_pb2.GetStatisticsRequest())
    assert told.engines[0].restarts >= 2
    assert told.engines[0].last_death == "it died: killed by signal 9"
    assert told.serving or told.reason.startswith(DIED)


def test_the_server_still_says_what_it_had_loaded(failing):
    assert failing.inspection.GetModel(pb.GetModelRequest()).model.name == failing.pool.facts.name
