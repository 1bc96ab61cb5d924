"""How much a caller may ask for, and how long it may keep a thread."""

from queue import Queue

import pytest

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.access import Access
from agvas_runtime.server.channel import open_channel
from tests.runtime.guard.server import (
    BOTH_TOKEN,
    INSPECT_TOKEN,
    INSPECTION,
    Code,
    outcome,
    running,
)
from tests.runtime.raw_http2 import RawCaller, grpc_message


def test_calls_above_the_rate_are_resource_exhausted_for_each_principal_alone(access_path):
    with running(Access(access_path), rate_per_s=0.01) as server:  # a burst of one
        method = f"/{INSPECTION}/GetModel"
        assert outcome(server.address, method, token=BOTH_TOKEN)[0] is Code.OK
        code, text, _ = outcome(server.address, method, token=BOTH_TOKEN)
        assert code is Code.RESOURCE_EXHAUSTED
        assert text.startswith("calls: found more than 0.01 a second, expected at most that; the next one in ")
        assert outcome(server.address, method, token=INSPECT_TOKEN)[0] is Code.OK
        assert outcome(server.address, method)[0] is Code.UNAUTHENTICATED


def test_health_and_administration_do_not_count_for_the_rate():
    with running(rate_per_s=0.01) as server:
        assert outcome(server.address, f"/{INSPECTION}/GetModel")[0] is Code.OK
        assert outcome(server.address, f"/{INSPECTION}/GetModel")[0] is Code.RESOURCE_EXHAUSTED
        for method in ("/grpc.health.v1.Health/Check", "/agvas.v1.Admin/GetStatistics"):
            assert {outcome(server.address, method)[0] for _ in range(5)} == {Code.OK}


def test_calls_above_the_number_of_open_ones_are_resource_exhausted():
    frames = Queue()
    with running(most_open=1) as server, open_channel(server.address) as channel:
        replies = pb_grpc.InspectionStub(channel).Inspect(iter(frames.get, None))
        frames.put(pb.InspectRequest())
        next(replies)
        code, text, _ = outcome(server.address, f"/{INSPECTION}/GetModel")
        assert (code, text) == (Code.RESOURCE_EXHAUSTED, "calls: found 1 open ones, expected fewer; try again later")
        frames.put(None)
        list(replies)
    assert len(server.guard.open) == 0


def test_a_caller_who_sends_no_message_is_let_go():
    with running(give_s=0.1) as server, RawCaller(server.port) as raw:
        for stream, method in enumerate(("Segment", "Explain", "Inspect", "GetModel")):
            raw.call(2 * stream + 1, f"/{INSPECTION}/{method}")
        for stream in range(4):
            raw.end_of(2 * stream + 1)
        raw.call(9, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        raw.end_of(9)


@pytest.mark.parametrize("method", ["Segment", "Explain", "Inspect"])
def test_callers_who_send_no_message_hold_no_thread_that_others_need(method):
    with running(most_silent=2) as server, RawCaller(server.port) as raw:
        for stream in range(1, 17, 2):  # twice as many as there are threads
            raw.call(stream, f"/{INSPECTION}/{method}")
        raw.end_of(1)
        assert outcome(server.address, f"/{INSPECTION}/Segment")[0] is Code.OK


def test_who_has_sent_its_message_gives_way_to_nobody():
    frames = Queue()
    with running(most_silent=0) as server, open_channel(server.address) as channel:
        replies = pb_grpc.InspectionStub(channel).Inspect(iter(frames.get, None), timeout=10)
        frames.put(pb.InspectRequest())
        next(replies)
        with RawCaller(server.port) as raw:
            raw.call(1, f"/{INSPECTION}/Segment")
            raw.end_of(1)
        frames.put(pb.InspectRequest())
        assert next(replies).answer.reason == "ok"
        frames.put(None)


def test_a_camera_may_be_silent_once_it_has_begun(free):
    frames = Queue()
    with running(give_s=0.1) as server, open_channel(server.address) as channel:
        replies = pb_grpc.InspectionStub(channel).Inspect(iter(frames.get, None), timeout=10)
        frames.put(pb.InspectRequest())
        next(replies)
        with RawCaller(server.port) as raw:  # who is silent from the start is let go meanwhile
            raw.call(1, f"/{INSPECTION}/Segment")
            raw.end_of(1)
        frames.put(pb.InspectRequest())
        assert next(replies).answer.reason == "ok"
        frames.put(None)


@pytest.mark.parametrize("method", ["GetModel", "Explain"])
def test_a_caller_who_takes_nothing_is_let_go(method):
    request = pb.SegmentRequest(instruction="forever").SerializeToString() if method == "Explain" else b""
    with running(take_s=0.1) as server, RawCaller(server.port, window=0) as raw:
        raw.call(1, f"/{INSPECTION}/{method}")
        raw.send(1, grpc_message(request))
        raw.end_of(1)
