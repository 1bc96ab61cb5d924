"""How a server ends, and how it is drained: what was accepted is answered, the rest is told, nothing is left over."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import client_options
from tests.runtime.live_server import WAIT_S, Stream, alive, live_server, request, until

STOPPED = "the server is being stopped"
DRAINED = "the server is drained: it takes no new frames"
BLOCK = pb.QUEUE_POLICY_BLOCK
LONG = pb.Decoding(temperature=10, seed=8, max_new_tokens=300)


class Own:
    """A server of its own process, and its engine's process."""

    def __init__(self, process: subprocess.Popen, channel: grpc.Channel) -> None:
        self.process, self.channel = process, channel
        self.inspection, self.admin = pb_grpc.InspectionStub(channel), admin_pb2_grpc.AdminStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        (self.engine,) = self.statistics().engines

    def statistics(self) -> admin_pb2.Statistics:
        return self.admin.GetStatistics(admin_pb2.GetStatisticsRequest())

    def freeze(self) -> None:
        os.kill(self.engine.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.engine.pid, signal.SIGCONT)

    def refuses(self) -> bool:
        """Whether it is seen that it is about to end."""
        try:
            reply = self.health.Check(health_pb2.HealthCheckRequest())
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return reply.status == health_pb2.HealthCheckResponse.NOT_SERVING

    def assert_ended_well(self) -> None:
        assert self.process.wait(WAIT_S) == 0
        until(lambda: not alive(self.engine.pid))


@contextmanager
def own_server(*arguments: str) -> Iterator[Own]:
    with (
        server_process(["--threads", "1", "--max-batch", "1", *arguments]) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}", options=client_options()) as channel,
    ):
        yield Own(server.process, channel)


def test_what_was_accepted_is_answered_before_the_end_and_streams_are_told():
    with own_server() as server:
        written = server.inspection.Explain(request(decoding=LONG, mode=pb.MODE_DESCRIBE), timeout=WAIT_S)
        next(written)
        idle, busy = Stream(server, camera_id="idle"), Stream(server, policy=BLOCK, heartbeat_ms=100)
        idle.heartbeat()
        server.freeze()
        busy.send(*[request()] * 3)
        calls = [server.inspection.Segment.future(request()) for _ in range(2)]
        until(lambda: server.statistics().waiting >= 4)  # and the engine has one
        server.process.send_signal(signal.SIGTERM)
        assert idle.code() is grpc.StatusCode.UNAVAILABLE
        assert idle.call.details() == STOPPED
        busy.send(request())
        assert [busy.heartbeat().waiting for _ in range(4)][-1] >= 3
        server.thaw()
        answers = busy.answers(3)
        assert [(answer.index, answer.status) for answer in answers] == [(i, pb.FRAME_STATUS_OK) for i in range(3)]
        assert [call.result().status for call in calls] == [pb.FRAME_STATUS_OK] * 2
        assert list(written)[-1].result.tokens == 300
        assert busy.code() is grpc.StatusCode.UNAVAILABLE
        assert busy.call.details() == STOPPED
        with pytest.raises(grpc.RpcError) as caught:
            server.inspection.Segment(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.assert_ended_well()


def test_callers_who_never_end_and_an_engine_that_stands_still_delay_the_end_by_no_more_than_its_time():
    with own_server("--drain-s", "0.5") as server:
        watched = server.health.Watch(health_pb2.HealthCheckRequest())
        next(watched)
        server.freeze()
        stream = Stream(server, policy=BLOCK)
        stream.send(*[request()] * 9)
        call = server.inspection.Segment.future(request())
        until(lambda: server.statistics().waiting >= 4)
        server.process.send_signal(signal.SIGTERM)
        server.assert_ended_well()
        assert stream.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_a_second_signal_ends_the_server_at_once():
    with own_server("--drain-s", "3600") as server:
        server.freeze()
        call = server.inspection.Segment.future(request())
        stream = Stream(server, policy=BLOCK)
        stream.send(request(), request())
        until(lambda: server.statistics().waiting == 2)
        server.process.send_signal(signal.SIGTERM)
        until(server.refuses)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        server.assert_ended_well()
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_a_swap_that_loads_does_not_delay_the_end():
    bundle = default_bundle_path()
    with own_server("--bundle-root", str(bundle.parent), "--drain-s", "3600") as server:
        swap = server.admin.Swap(admin_pb2.SwapRequest(bundle=bundle.name), timeout=WAIT_S)
        next(swap)
        family = psutil.Process(server.process.pid)
        until(lambda: len(family.children()) == 2)
        (candidate,) = (child for child in family.children() if child.pid != server.engine.pid)
        candidate.suspend()  # it would never be ready
        server.process.terminate()
        (last,) = swap
        assert (last.phase, last.reason) == (admin_pb2.SwapEvent.PHASE_REFUSED, STOPPED)
        server.assert_ended_well()
        until(lambda: not alive(candidate.pid))


def test_a_server_that_is_killed_takes_its_engine_along_even_one_that_stands_still():
    with own_server() as server:
        server.freeze()
        server.process.kill()
        assert server.process.wait(WAIT_S) == -signal.SIGKILL
        until(lambda: not alive(server.engine.pid))


def test_a_signal_during_the_start_ends_it():
    command = [sys.executable, "-m", "agvas_runtime.cli", "serve", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: psutil.Process(process.pid).children())
        (engine,) = psutil.Process(process.pid).children()
        process.terminate()
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "", "")
    until(lambda: not alive(engine.pid))


@pytest.fixture(scope="module")
def drained():
    """A server that was drained by its operator while frames waited, and what came of these."""
    with live_server() as live:
        stream, early = live.open(policy=BLOCK), live.open(policy=BLOCK)
        written = live.inspection.Explain(request(decoding=LONG, mode=pb.MODE_DESCRIBE), timeout=WAIT_S)
        next(written)
        with live.frozen():
            stream.send(*[request()] * 3)
            call = live.inspection.Segment.future(request())
            early.heartbeat()
            until(lambda: live.waiting == 3 and live.accepted == 4)
            drains = [live.admin.Drain.future(admin_pb2.DrainRequest(), timeout=WAIT_S) for _ in range(3)]
            until(lambda: not live.serving())
            assert not any(drain.done() for drain in drains)
        answers = [*stream.answers(3), call.result()]
        assert not any(drain.done() for drain in drains)
        answers.append(list(written)[-1].result)
        yield live, early, answers, [drain.result() for drain in drains]


def test_a_drain_returns_once_what_was_accepted_is_answered_and_so_do_others_at_the_same_time(drained):
    _, _, answers, replies = drained
    assert [answer.status for answer in answers] == [pb.FRAME_STATUS_OK] * 5
    assert max(reply.answered for reply in replies) == 4


def test_a_drained_server_lives_and_refuses_new_frames_in_streams_old_and_new(drained):
    live, early, _, _ = drained
    for stream in (early, live.open(defaults=pb.SegmentRequest())):
        stream.send(request(recipe=pb.Recipe(on_no_answer=pb.NO_ANSWER_ACTION_STOP)), pb.SegmentRequest())
        refused, invalid = stream.answers(2)
        assert (refused.status, refused.verdict) == (pb.FRAME_STATUS_REFUSED, pb.VERDICT_NO_ANSWER)
        assert (refused.gate, refused.reason) == (pb.GATE_STOP, DRAINED)
        assert invalid.status == pb.FRAME_STATUS_INVALID
        stream.finish()
        assert stream.code() is grpc.StatusCode.OK


def test_a_drained_server_refuses_calls_and_is_not_serving_and_answers_its_operator(drained):
    live = drained[0]
    for call in (live.inspection.Segment, lambda asked: next(live.inspection.Explain(asked))):
        with pytest.raises(grpc.RpcError) as caught:
            call(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert caught.value.details() == DRAINED
    assert not live.serving()
    told = live.admin.GetStatistics(admin_pb2.GetStatisticsRequest())
    assert (told.serving, told.draining, told.reason) == (False, True, DRAINED)
    assert live.admin.Drain(admin_pb2.DrainRequest()).answered == 0
    assert live.inspection.GetModel(pb.GetModelRequest()).model == told.model


def test_a_drain_that_takes_too_long_says_so_and_can_be_tried_again():
    with live_server(drain_s=0.2) as live:
        with live.frozen():
            call = live.inspection.Segment.future(request())
            until(lambda: live.accepted == 1)
            with pytest.raises(grpc.RpcError) as caught:
                live.admin.Drain(admin_pb2.DrainRequest())
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert caught.value.details() == "frames are still being answered after 0.2 s; no new ones are taken"
            assert not live.serving()
        assert call.result().status == pb.FRAME_STATUS_OK
        live.admin.Drain(admin_pb2.DrainRequest())


def test_nothing_is_left_in_memory_of_a_drained_server(drained):
    live = drained[0]
    with suppress(grpc.RpcError):
        live.inspection.Segment(request())
    until(lambda: live.arena.free_bytes == live.arena.size)
