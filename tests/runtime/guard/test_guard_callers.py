"""Who gets in to a guarded server, and what becomes of bytes that are no message."""

import re
import zlib
from queue import Queue

import grpc
import pytest
from grpc_reflection.v1alpha import reflection

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.access import Access
from agvas_runtime.server.callers import request_id
from agvas_runtime.server.channel import open_channel
from tests.runtime.guard.server import (
    ADMIN,
    ADMIN_TOKEN,
    BAD_TEXT,
    BOTH_TOKEN,
    ENTRIES,
    GARBAGE,
    HEALTH,
    INFERENCE,
    INSPECT_TOKEN,
    INSPECTION,
    Code,
    access_text,
    methods,
    outcome,
    running,
)
from tests.runtime.raw_http2 import RawCaller, grpc_message


def test_every_method_turns_away_whoever_the_server_does_not_know(guarded):
    names = methods(guarded.address, BOTH_TOKEN)
    assert {name.split("/")[1] for name in names} == {INSPECTION, ADMIN, HEALTH, INFERENCE, reflection.SERVICE_NAME}
    assert len(names) >= 5 + 4 + 2 + 13 + 1
    for method in [*names, "/agvas.v1.Inspection/Nothing", "/nothing/Nothing"]:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", f"Basic {BOTH_TOKEN}"),)):
            code, text, replies = outcome(guarded.address, method, metadata=metadata)
            assert (code, replies) == (Code.UNAUTHENTICATED, []), method
            assert text.startswith("authorization: found")


def test_every_method_needs_its_right(guarded):
    for method in methods(guarded.address, BOTH_TOKEN):
        wrong = INSPECT_TOKEN if method.startswith(f"/{ADMIN}/") else ADMIN_TOKEN
        code, text, replies = outcome(guarded.address, method, token=wrong)
        assert (code, replies) == (Code.PERMISSION_DENIED, []), method
        assert re.fullmatch(f"(camera|auditor) has no right '(inspect|admin)', which {method} needs", text)
        assert outcome(guarded.address, method, token=BOTH_TOKEN)[0] in (Code.OK, Code.CANCELLED), method


@pytest.mark.parametrize("garbage", [GARBAGE, b"\x0a\x05ab", b"\x0b" * 200])
def test_every_method_says_that_bytes_are_no_message(guarded, garbage):
    for method in methods(guarded.address, BOTH_TOKEN):
        code, text, replies = outcome(guarded.address, method, garbage, token=BOTH_TOKEN)
        if method == f"/{INSPECTION}/Inspect":
            assert code is Code.OK
            assert "InspectRequest" in pb.InspectResponse.FromString(replies[0]).answer.reason
            continue
        assert (code, replies) == (Code.INVALID_ARGUMENT, []), method
        assert re.fullmatch(
            rf"message: found {len(garbage)} bytes that are no \w+(Request), expected its fields in .*", text
        )


def test_a_text_that_is_no_utf8_makes_a_message_none(free):
    for method in ("Segment", "Explain"):
        code, text, _ = outcome(free.address, f"/{INSPECTION}/{method}", BAD_TEXT)
        assert code is Code.INVALID_ARGUMENT
        assert text.startswith("message: found 4 bytes that are no SegmentRequest")
    assert outcome(free.address, f"/{HEALTH}/Check", b"\x0a\x01\xff")[0] is Code.INVALID_ARGUMENT


def test_a_stream_of_frames_goes_on_behind_a_message_that_is_none(free):
    good = pb.InspectRequest(frame=pb.SegmentRequest()).SerializeToString()
    with open_channel(free.address) as channel:
        replies = channel.stream_stream(f"/{INSPECTION}/Inspect")(iter([good, GARBAGE, b"", good]))
        reasons = [pb.InspectResponse.FromString(reply).answer.reason for reply in replies]
    assert [reason.split(",")[0] for reason in reasons] == [
        "ok",
        "message: found 2 bytes that are no InspectRequest",
        "ok",
        "ok",
    ]


def test_a_call_without_a_message_says_so(free):
    with open_channel(free.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"/{INSPECTION}/Segment")(iter([]))
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert caught.value.details() == "message: found none, expected one SegmentRequest"


def test_nobody_s_message_is_received_before_it_is_known_who_calls(guarded):
    with RawCaller(guarded.port) as raw:
        raw.call(1, f"/{INSPECTION}/Segment")
        raw.send(1, b"\0\x7f\xff\xff\xff", end=False)  # begins a message of 2 GB, which the server would refuse
        assert b"authorization: found no token" in raw.end_of(1)
        raw.call(3, f"/{INSPECTION}/Segment", authorization=f"Bearer {INSPECT_TOKEN}")
        raw.send(3, b"\0\x7f\xff\xff\xff", end=False)
        assert b"larger than max" in raw.end_of(3)


def test_a_message_above_the_limit_is_resource_exhausted(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(pb.SegmentRequest(frame=pb.Frame(encoded=bytes(2 << 20))))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_a_frame_above_the_limit_ends_its_stream(stub):
    """As docs/protocol.md says: gRPC's core does it, no frame's status can tell of it."""
    frames = Queue()
    replies = stub.Inspect(iter(frames.get, None), timeout=10)
    small = pb.InspectRequest(frame=pb.SegmentRequest())
    frames.put(small)
    assert next(replies).answer.reason == "ok"
    frames.put(pb.InspectRequest(frame=pb.SegmentRequest(frame=pb.Frame(encoded=bytes(2 << 20)))))
    frames.put(small)
    frames.put(None)
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_message_is_refused_unpacked(free, algorithm):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if algorithm == "gzip" else 15)
    bomb = packer.compress(bytes(1 << 20)) + packer.flush()
    with RawCaller(free.port) as raw:
        raw.call(1, f"/{INSPECTION}/Segment", grpc_encoding=algorithm)
        raw.send(1, grpc_message(bomb, compressed=True))
        assert b"Compression algorithm" in raw.end_of(1)
    assert free.inspection.seen.empty()


def test_who_calls_and_with_which_id_is_known_to_the_handler(guarded):
    with open_channel(guarded.address, token=INSPECT_TOKEN) as channel:
        stub = pb_grpc.InspectionStub(channel)
        reply, call = stub.Segment.with_call(pb.SegmentRequest(), metadata=(("x-request-id", "part-7_a.b"),))
        assert (reply.answer, reply.reason) == ("camera", "part-7_a.b")
        assert dict(call.trailing_metadata())["x-request-id"] == "part-7_a.b"
        made = {stub.Segment(pb.SegmentRequest()).reason for _ in range(3)}
        assert len(made) == 3


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "x" * 65, "\u00e4", "a;b", "{}"])
def test_an_id_that_is_not_fit_for_a_log_is_replaced(given):
    made = request_id((("x-request-id", given),))
    assert made != given
    assert re.fullmatch("[0-9a-f]{16}", made)


def test_without_an_access_file_this_machine_may_do_everything(free):
    assert outcome(free.address, f"/{ADMIN}/GetStatistics")[0] is Code.OK
    assert outcome(free.address, f"/{ADMIN}/GetStatistics", metadata=(("authorization", "Bearer x"),))[0] is Code.OK


@pytest.mark.parametrize("peer", ["ipv4:10.0.0.7:1234", "ipv6:%5B2001:db8::7%5D:1234"])
def test_without_an_access_file_other_machines_may_inspect_only(free, monkeypatch, peer):
    monkeypatch.setattr("grpc._server._Context.peer", lambda context: peer)
    assert outcome(free.address, f"/{INSPECTION}/GetModel")[0] is Code.OK
    code, text, _ = outcome(free.address, f"/{ADMIN}/GetStatistics")
    assert code is Code.PERMISSION_DENIED
    assert text.startswith("the caller has no right 'admin'")


def test_a_method_that_is_not_there_is_unimplemented_to_those_who_may_ask(free, guarded):
    for server, token in ((free, None), (guarded, INSPECT_TOKEN)):
        assert outcome(server.address, "/agvas.v1.Inspection/Nothing", token=token)[0] is Code.UNIMPLEMENTED


def test_two_tokens_in_a_call_are_none(guarded):
    metadata = (("authorization", f"Bearer {INSPECT_TOKEN}"), ("authorization", f"Bearer {ADMIN_TOKEN}"))
    assert outcome(guarded.address, f"/{HEALTH}/Check", metadata=metadata)[0] is Code.UNAUTHENTICATED


def test_a_right_that_is_taken_away_ends_a_running_stream(tmp_path):
    path = tmp_path / "access.yaml"
    path.write_text(access_text(*ENTRIES))
    path.chmod(0o600)
    frames: Queue[pb.InspectRequest | None] = Queue()
    frame = pb.InspectRequest(frame=pb.SegmentRequest())
    with running(Access(path, poll_s=0)) as server, open_channel(server.address, token=INSPECT_TOKEN) as channel:
        replies = pb_grpc.InspectionStub(channel).Inspect(iter(frames.get, None), timeout=10)
        frames.put(frame)
        assert next(replies).answer.reason == "ok"
        path.write_text(access_text(*ENTRIES) + "# the same people\n")
        frames.put(frame)
        assert next(replies).answer.reason == "ok"
        path.write_text(access_text(*ENTRIES[1:]))
        frames.put(frame)
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.code() is Code.UNAUTHENTICATED
        frames.put(None)
