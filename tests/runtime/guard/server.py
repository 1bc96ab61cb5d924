"""A guarded gRPC server with every service, and calls of any kind to it."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import Queue

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import open_channel, server_options
from agvas_runtime.server.guard import Guard, Undecodable, caller
from agvas_runtime.server.health_service import HealthService
from agvas_runtime.server.kserve.reflected import Pools
from agvas_runtime.server.kserve.service import add_to as add_inference

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
