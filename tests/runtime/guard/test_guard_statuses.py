"""What a handler raises, and what becomes of it: statuses, texts, the end that is told."""

from concurrent.futures import CancelledError
from queue import Queue

import grpc
import pytest

from agvas_runtime.errors import BundleError, Cancelled, EngineError, EngineLost, InputError, NotFound, NotNow
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.access import Access
from agvas_runtime.server.channel import open_channel
from agvas_runtime.server.engine.arena import ArenaFull
from agvas_runtime.server.guard import TooMuch, status_of
from agvas_runtime.server.lanes import Fate, NoResult
from tests.runtime.guard.server import (
    ADMIN,
    BOTH_TOKEN,
    GARBAGE,
    INSPECT_TOKEN,
    INSPECTION,
    Code,
    outcome,
    running,
)

FATES = {
    Fate.DROPPED: Code.RESOURCE_EXHAUSTED,
    Fate.EXPIRED: Code.DEADLINE_EXCEEDED,
    Fate.ENGINE_FAILED: Code.UNAVAILABLE,
    Fate.REFUSED: Code.UNAVAILABLE,
    Fate.CANCELLED: Code.CANCELLED,
}
ERRORS = [
    (InputError("mask_format: found 9"), Code.INVALID_ARGUMENT, "mask_format: found 9"),
    (BundleError("bundle: altered"), Code.INVALID_ARGUMENT, "bundle: altered"),
    (NotFound("bundle: found none"), Code.NOT_FOUND, "bundle: found none"),
    (NotNow("a swap is under way"), Code.FAILED_PRECONDITION, "a swap is under way"),
    (EngineError("graph agmd: failed"), Code.INTERNAL, "graph agmd: failed"),
    (EngineLost("no engine is ready"), Code.UNAVAILABLE, "no engine is ready"),
    (TooMuch("16 frames are waiting"), Code.RESOURCE_EXHAUSTED, "16 frames are waiting"),
    (ArenaFull("no room"), Code.RESOURCE_EXHAUSTED, "no room"),
    *((NoResult(fate, "a reason"), code, "a reason") for fate, code in FATES.items()),
    (Cancelled("gone"), Code.CANCELLED, "the caller went away before there was an answer"),
    (CancelledError(), Code.CANCELLED, "the caller went away before there was an answer"),
    (KeyError("/etc/secret"), Code.INTERNAL, "KeyError"),
    (Exception("/etc/secret"), Code.INTERNAL, "Exception"),
    (Exception(), Code.INTERNAL, "Exception"),
]


def test_every_fate_has_a_status():
    assert set(FATES) == set(Fate)


@pytest.mark.parametrize(("error", "code", "text"), ERRORS, ids=lambda value: type(value).__name__)
def test_what_a_handler_raises_becomes_a_status_with_one_line(free, stub, error, code, text):
    free.inspection.error = error
    with pytest.raises(grpc.RpcError) as unary:
        stub.Segment(pb.SegmentRequest())
    with pytest.raises(grpc.RpcError) as stream:
        list(stub.Explain(pb.SegmentRequest()))
    for caught in (unary, stream):
        assert (caught.value.code(), caught.value.details()) == (code, text)


def test_a_status_s_text_is_one_line_that_any_client_can_take():
    text = "\u00fc\ud800\n\t\x1b[31m" + "\u4e2d" * 5000
    code, shown = status_of(InputError(text))
    assert code is Code.INVALID_ARGUMENT
    assert shown.startswith("\u00fc [31m\u4e2d")
    assert 900 < len(shown.encode()) <= 1000


def test_a_handler_s_own_status_stays(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(pb.SegmentRequest(instruction="abort"))
    assert (caught.value.code(), caught.value.details()) == (Code.DATA_LOSS, "on purpose")


def test_what_nobody_foresaw_is_in_the_log_with_its_trace_and_not_in_the_answer(free, stub, caplog):
    free.inspection.error = KeyError("/etc/secret")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(pb.SegmentRequest(), metadata=(("x-request-id", "id-7"),))
    assert "secret" not in caught.value.details()
    record = next(record for record in caplog.records if record.name == "agvas.guard")
    assert record.levelname == "ERROR"
    assert record.request_id == "id-7"
    assert "/etc/secret" in caplog.text
    assert "in Segment" in caplog.text


def test_the_end_of_every_call_is_told_once(access_path):
    ends = Queue()
    with running(Access(access_path), on_end=ends.put) as server:

        def end():
            found = ends.get(timeout=10)
            assert found.seconds >= 0
            return found.method, found.code, found.caller.name

        address, segment, explain = server.address, f"/{INSPECTION}/Segment", f"/{INSPECTION}/Explain"
        outcome(address, segment, token=BOTH_TOKEN)
        assert end() == (segment, "OK", "operator")
        outcome(address, segment, GARBAGE, token=BOTH_TOKEN)
        assert end() == (segment, "INVALID_ARGUMENT", "operator")
        outcome(address, segment)
        assert end() == (segment, "UNAUTHENTICATED", "")
        outcome(address, f"/{ADMIN}/Drain", token=INSPECT_TOKEN)
        assert end() == (f"/{ADMIN}/Drain", "PERMISSION_DENIED", "camera")
        outcome(address, "/a-name/of-mine", token=BOTH_TOKEN)
        assert end() == ("unknown", "UNIMPLEMENTED", "operator")
        outcome(address, explain, token=BOTH_TOKEN)
        assert end() == (explain, "OK", "operator")
        with open_channel(address, token=BOTH_TOKEN) as channel:
            call = pb_grpc.InspectionStub(channel).Explain(pb.SegmentRequest(instruction="forever"))
            next(call)
            call.cancel()
            assert end() == (explain, "CANCELLED", "operator")
        assert ends.empty()


def test_a_hook_that_fails_spoils_no_answer(caplog):
    def fail(end):
        raise ValueError("broken hook")

    with running(on_end=fail) as server:
        assert outcome(server.address, f"/{INSPECTION}/Segment")[0] is Code.OK
    assert "broken hook" in caplog.text


def test_a_stream_s_handler_is_closed_when_its_caller_leaves(free, stub):
    call = stub.Explain(pb.SegmentRequest(instruction="forever"))
    next(call)
    call.cancel()
    assert free.inspection.seen.get(timeout=10) == "explained"
