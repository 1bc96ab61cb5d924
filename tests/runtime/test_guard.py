"""The guard on a running gRPC server: who gets in, what becomes of bytes that are no message, statuses of errors."""

import hashlib
import logging
import re
import socket
import subprocess
import sys
import zlib
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import Queue

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agvas_runtime.client import AccessDeniedError, Client
from agvas_runtime.errors import BundleError, Cancelled, EngineError, EngineLost, InputError, NotFound, NotNow
from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server import health as health_command
from agvas_runtime.server.access import Access
from agvas_runtime.server.callers import Caller, Denials, request_id
from agvas_runtime.server.channel import open_channel, server_options
from agvas_runtime.server.engine.arena import ArenaFull
from agvas_runtime.server.guard import Guard, TooMuch, Undecodable, caller, status_of
from agvas_runtime.server.health_service import MOST_WATCHERS, HealthService
from agvas_runtime.server.kserve.reflected import Pools
from agvas_runtime.server.kserve.service import add_to as add_inference
from agvas_runtime.server.lanes import Fate, NoResult
from tests.runtime.raw_http2 import RawCaller, grpc_message

Code = grpc.StatusCode
INSPECTION, ADMIN, HEALTH = "agvas.v1.Inspection", "agvas.v1.Admin", "grpc.health.v1.Health"
INFERENCE = "inference.GRPCInferenceService"
INSPECT_TOKEN, ADMIN_TOKEN, BOTH_TOKEN = "inspect-token", "admin-token", "both-token"
GARBAGE = b"\xff\xff"
BAD_TEXT = b"\x12\x02\xff\xff"
"""Field 2 (an instruction) holds what is no UTF-8."""


class Inspection(pb_grpc.InspectionServicer):
    """Does as it is told: raises what is set, waits where an event is set, says who calls."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.seen: Queue[object] = Queue()

    def Segment(self, request, context):
        if self.error is not None:
            raise self.error
        if request.instruction == "abort":
            context.abort(Code.DATA_LOSS, "on purpose")
        self.seen.put(request)
        known = {"verdict": pb.VERDICT_PASS, "gate": pb.GATE_PASS, "answer_kind": pb.ANSWER_KIND_REJECTED}
        who = caller(context)
        return pb.SegmentResponse(answer=who.name, reason=who.request_id, verified=pb.VERIFIED_ANSWER, **known)

    def Inspect(self, request_iterator, context):
        with suppress(Exception):  # takes it lightly if the stream breaks off
            for message in request_iterator:
                undecodable = isinstance(message, Undecodable)
                yield pb.InspectResponse(answer=pb.SegmentResponse(reason=message.reason if undecodable else "ok"))

    def Scan(self, request_iterator, context):
        for _ in request_iterator:
            yield pb.ScanResponse()

    def Explain(self, request, context):
        try:
            yield pb.ExplainEvent(text="a")
            if self.error is not None:
                raise self.error
            while request.instruction == "forever":
                yield pb.ExplainEvent(text="b" * 100_000)
        finally:
            self.seen.put("explained")

    def GetModel(self, request, context):
        return pb.GetModelResponse(default_instruction="x" * 100_000)


class Admin(admin_pb2_grpc.AdminServicer):
    def Swap(self, request, context):
        yield admin_pb2.SwapEvent(reason=caller(context).name)

    def GetStatistics(self, request, context):
        return admin_pb2.Statistics(reason=caller(context).name)

    def ReloadRecipes(self, request, context):
        return admin_pb2.RecipesResponse()

    def Drain(self, request, context):
        return admin_pb2.DrainResponse()


class Inference:
    """Any method of the Open Inference Protocol: answers nothing, in a stream to every message."""

    def __getattr__(self, name):
        if name == "ModelStreamInfer":
            return lambda requests, context: (b"" for _ in requests)
        return lambda request, context: b""


class Running:
    """A guarded server with every service."""

    def __init__(self, guard: Guard) -> None:
        self.guard, self.inspection, self.health = guard, Inspection(), HealthService([INSPECTION])
        self.server = grpc.server(ThreadPoolExecutor(4), options=server_options(1), interceptors=[guard])
        pb_grpc.add_InspectionServicer_to_server(self.inspection, self.server)
        admin_pb2_grpc.add_AdminServicer_to_server(Admin(), self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        add_inference(self.server, Inference())
        names = (INSPECTION, ADMIN, HEALTH, INFERENCE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server, Pools())
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.health.set(True)
        self.address = f"127.0.0.1:{self.port}"


@contextmanager
def running(*args, **options):
    with ExitStack() as stack:
        guard = Guard(*args, **options)
        stack.callback(guard.close)
        server = Running(guard)
        stack.callback(lambda: server.server.stop(None).wait())
        yield server


def access_text(*entries: tuple[str, str, str]) -> str:
    lines = (
        f"- {{name: {name}, rights: [{rights}], token_sha256: '{hashlib.sha256(token.encode()).hexdigest()}'}}\n"
        for name, rights, token in entries
    )
    return "".join(lines)


ENTRIES = (
    ("camera", "inspect", INSPECT_TOKEN),
    ("auditor", "admin", ADMIN_TOKEN),
    ("operator", "inspect, admin", BOTH_TOKEN),
)


@pytest.fixture(scope="module")
def access_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("access") / "access.yaml"
    path.write_text(access_text(*ENTRIES))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def guarded(access_path):
    """A server with an access file."""
    with running(Access(access_path)) as server:
        yield server


@pytest.fixture(scope="module")
def free():
    """A server without one."""
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def _as_new(request):
    for name in {"guarded", "free"} & set(request.fixturenames):
        server = request.getfixturevalue(name)
        server.inspection.error = None
        while not server.inspection.seen.empty():
            server.inspection.seen.get()


@pytest.fixture(scope="module")
def stub(free):
    with open_channel(free.address) as channel:
        yield pb_grpc.InspectionStub(channel)


def methods(address: str, token: str) -> list[str]:
    """All methods of a server as it tells them itself."""
    with open_channel(address, token=token) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        return [
            f"/{name}/{method.name}"
            for name in database.get_services()
            for service in database.FindFileContainingSymbol(name).service
            if f"{name}".endswith(f".{service.name}")
            for method in service.method
        ]


def outcome(address: str, method: str, data: bytes = b"", *, metadata=(), token: str | None = None):
    """Code, text and replies of a call of any kind with one message of these bytes."""
    with open_channel(address, token=token) as channel:
        replies = channel.stream_stream(method)(iter([data]), metadata=metadata, timeout=10)
        found = []
        try:
            for reply in replies:
                found.append(reply)
                if method.endswith("/Watch"):
                    replies.cancel()
        except grpc.RpcError:
            pass
        return replies.code(), replies.details(), found


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


def test_calls_above_the_rate_are_resource_exhausted_for_each_principal_alone(access_path):
    with running(Access(access_path), rate_per_s=0.01) as server:  # a burst of one
        method = f"/{INSPECTION}/GetModel"
        assert outcome(server.address, method, token=BOTH_TOKEN)[0] is Code.OK
        code, text, _ = outcome(server.address, method, token=BOTH_TOKEN)
        assert code is Code.RESOURCE_EXHAUSTED
        assert text.startswith("calls: found more than 0.01 a second, expected at most that; the next one in ")
        assert outcome(server.address, method, token=INSPECT_TOKEN)[0] is Code.OK
        assert outcome(server.address, method)[0] is Code.UNAUTHENTICATED


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


def test_no_token_gets_into_a_log_or_an_answer(access_path, caplog):
    secret, seen = "a-very-secret-token", []
    with (
        caplog.at_level(logging.DEBUG),
        running(Access(access_path), on_end=lambda end: seen.append(repr(end))) as server,
    ):
        for header in (f"Bearer {secret}", secret, f"Basic {secret}", f"bearer {secret} {secret}"):
            for method in (f"/{INSPECTION}/Segment", f"/{secret}/{secret}"):
                code, text, _ = outcome(server.address, method, metadata=(("authorization", header),))
                assert code is Code.UNAUTHENTICATED
                assert secret not in text
        for token in (INSPECT_TOKEN, ADMIN_TOKEN):
            outcome(server.address, f"/{ADMIN}/Drain", GARBAGE, token=token)
            outcome(server.address, f"/{INSPECTION}/Segment", GARBAGE, token=token)
    ours = [record for record in caplog.records if record.name.startswith("agvas")]
    told = "".join(f"{record.getMessage()} {vars(record)}" for record in ours) + "".join(seen)
    assert "UNAUTHENTICATED" in told
    assert "PERMISSION_DENIED" in told
    for token in (secret, INSPECT_TOKEN, ADMIN_TOKEN, BOTH_TOKEN):
        assert token not in told


def test_those_turned_away_are_logged_once_a_second_for_an_address(caplog):
    now = [0.0]
    denials = Denials(logging.getLogger("agvas.guard"), clock=lambda: now[0])
    for _ in range(5):
        denials.tell(Caller("", "id", "ipv4:10.0.0.7:1"), "/a/b", "UNAUTHENTICATED")
    denials.tell(Caller("camera", "id", "ipv6:%5Bfe80::1%5D:1"), "/a/b", "PERMISSION_DENIED")
    now[0] = 1.0
    denials.tell(Caller("", "id", "ipv4:10.0.0.7:2"), "/a/c", "UNAUTHENTICATED")
    assert [record.getMessage() for record in caplog.records] == [
        "10.0.0.7: UNAUTHENTICATED at /a/b",
        "fe80::1 (camera): PERMISSION_DENIED at /a/b",
        "10.0.0.7: UNAUTHENTICATED at /a/c, and 4 more since the last line",
    ]


def test_those_turned_away_are_not_remembered_for_good(caplog):
    caplog.set_level(logging.ERROR)
    denials = Denials(logging.getLogger("agvas.guard"))
    for number in range(2 * Denials.MOST):
        denials.tell(Caller("", "id", f"ipv4:10.1.{number}:1"), "/a/b", "UNAUTHENTICATED")
    assert len(denials) == Denials.MOST


def test_our_client_says_that_it_is_turned_away(guarded, photo):
    with Client(guarded.address) as client:
        calls = (client.model, client.wait_ready, lambda: client.segment(photo), lambda: list(client.explain(photo)))
        for call in calls:
            with pytest.raises(AccessDeniedError, match=f"{guarded.address}: authorization: found no token"):
                call()
    text = "auditor has no right 'inspect'"
    with Client(guarded.address, token=ADMIN_TOKEN) as client, pytest.raises(AccessDeniedError, match=text):
        client.model()
    with Client(guarded.address, token=INSPECT_TOKEN) as client:
        client.wait_ready()
        assert client.segment(photo).answer == "camera"


def test_a_token_without_tls_takes_no_way_through_a_proxy(guarded, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert outcome(guarded.address, f"/{HEALTH}/Check", token=INSPECT_TOKEN)[0] is Code.OK


def test_a_token_goes_along_with_calls_of_every_kind(guarded):
    with open_channel(guarded.address, token=BOTH_TOKEN) as channel:
        stub = pb_grpc.InspectionStub(channel)
        assert stub.Segment(pb.SegmentRequest()).answer == "operator"
        assert stub.Segment.future(pb.SegmentRequest()).result().answer == "operator"
        assert [event.text for event in stub.Explain(pb.SegmentRequest())] == ["a"]
        assert len(list(stub.Inspect(iter([pb.InspectRequest()])))) == 1
        assert channel.stream_unary(f"/{INSPECTION}/GetModel")(iter([b""]))


def test_the_health_command_shows_a_token(guarded, tmp_path):
    token = tmp_path / "token"
    token.write_text(f"{INSPECT_TOKEN}\n")
    command = [sys.executable, "-m", health_command.__name__, guarded.address]
    for arguments, environment, code, text in (
        ([], {}, 1, "UNAUTHENTICATED"),
        (["--token-file", str(token)], {}, 0, "SERVING"),
        ([], {"AGVAS_TOKEN_FILE": str(token)}, 0, "SERVING"),
        (["--token-file", str(tmp_path / "none")], {}, 2, "found no token"),
    ):
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, text in done.stdout + done.stderr) == (code, True)
