"""Health, reflection and the operator's calls, whatever the others do."""

from contextlib import ExitStack
from queue import Queue

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server import health as health_command
from agvas_runtime.server.channel import open_channel
from agvas_runtime.server.health_service import MOST_WATCHERS
from tests.runtime.guard.server import (
    ADMIN,
    HEALTH,
    INSPECTION,
    Code,
    outcome,
    running,
)
from tests.runtime.raw_http2 import RawCaller, grpc_message


def test_health_is_checked_and_watched(free):
    with open_channel(free.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        statuses = health_pb2.HealthCheckResponse
        for service in ("", INSPECTION):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == statuses.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert caught.value.code() is Code.NOT_FOUND
        assert caught.value.details() == f"service: found 'nothing', expected one of '', '{INSPECTION}'"
        watched = stub.Watch(health_pb2.HealthCheckRequest(service=INSPECTION), timeout=10)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=10)
        assert next(watched).status == statuses.SERVING
        assert next(unknown).status == statuses.SERVICE_UNKNOWN
        free.health.set(True)
        free.health.set(False)
        assert next(watched).status == statuses.NOT_SERVING
        free.health.set(True)
        assert next(watched).status == statuses.SERVING


def test_watchers_are_bounded_and_hold_up_nobody(free):
    with ExitStack() as stack:
        channel = stack.enter_context(open_channel(free.address))
        stub = health_pb2_grpc.HealthStub(channel)
        with RawCaller(free.port, window=0) as raw:  # does not read
            raw.call(1, f"/{HEALTH}/Watch")
            raw.send(1, grpc_message(b""))
            watchers = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=10) for _ in range(MOST_WATCHERS - 1)]
            for watcher in watchers:
                next(watcher)
            tries = (outcome(free.address, f"/{HEALTH}/Watch")[0] for _ in range(200))
            assert Code.RESOURCE_EXHAUSTED in tries  # as soon as the one that does not read has its place
            free.health.set(False)
            assert {next(watcher).status for watcher in watchers} == {health_pb2.HealthCheckResponse.NOT_SERVING}
            free.health.set(True)
            assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_those_who_watch_are_told_the_end_and_do_not_hold_up_the_server_s():
    with running() as server, open_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watched = [stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=30) for name in ("", "nothing")]
        assert [next(watcher).status for watcher in watched] == [1, 3]  # SERVING, SERVICE_UNKNOWN
        server.health.close()
        assert server.server.stop(60).wait(10)
        assert [[reply.status for reply in watcher] for watcher in watched] == [[2], []]  # NOT_SERVING
        assert {watcher.code() for watcher in watched} == {Code.OK}


def test_health_is_answered_while_every_thread_of_the_others_waits(free):
    with RawCaller(free.port) as raw:
        for stream in range(1, 17, 2):  # twice as many as there are threads
            raw.call(stream, f"/{INSPECTION}/Segment")
        for stream in range(17, 33, 2):
            raw.call(stream, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        assert health_command.status(free.address) == "SERVING"


def test_the_operator_is_answered_while_every_thread_of_the_others_is_taken(free):
    frames = [Queue() for _ in range(4)]
    with open_channel(free.address) as channel:
        stub = pb_grpc.InspectionStub(channel)
        streams = [stub.Inspect(iter(each.get, None), timeout=30) for each in frames]
        for each, replies in zip(frames, streams, strict=True):
            each.put(pb.InspectRequest())
            next(replies)
        assert outcome(free.address, f"/{ADMIN}/GetStatistics")[0] is Code.OK
        for each, replies in zip(frames, streams, strict=True):
            each.put(None)
            list(replies)


@pytest.mark.parametrize(("silent", "threads"), [(f"/{ADMIN}/GetStatistics", 8), (f"/{HEALTH}/Check", 40)])
def test_no_calls_without_a_message_keep_the_operator_or_the_health_check_out(free, silent, threads):
    with RawCaller(free.port) as raw:
        for number in range(threads + 4):
            raw.call(2 * number + 1, silent)
        raw.end_of(1)
        assert outcome(free.address, f"/{ADMIN}/GetStatistics")[0] is Code.OK
        assert health_command.status(free.address) == "SERVING"


@pytest.mark.parametrize(
    "request_",
    [
        reflection_pb2.ServerReflectionRequest(),
        reflection_pb2.ServerReflectionRequest(file_by_filename="../\x00\u4e2d"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="\x00."),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type=INSPECTION),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="agvas.v1.Frame"),
        reflection_pb2.ServerReflectionRequest(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="agvas.v1.Frame", extension_number=-1
            )
        ),
    ],
)
def test_reflection_answers_whatever_it_is_asked(free, request_):
    with open_channel(free.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert len(list(stub.ServerReflectionInfo(iter([request_, request_])))) == 2
