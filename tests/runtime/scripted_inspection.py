"""A server of our protocol that answers as a test tells it. The transport is the real one, on a loopback port."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import server_options

Script = Callable[[Iterator[pb.InspectRequest], grpc.ServicerContext], Iterator[pb.SegmentResponse]]


class Scripted(pb_grpc.InspectionServicer):
    """Answers a stream by a script."""

    def __init__(self, script: Script) -> None:
        self.server: grpc.Server | None = None
        self.script, self.opened, self.callers = script, list[pb.CameraStream](), list[str]()

    def GetModel(self, request, context):
        return pb.GetModelResponse(model=pb.ModelIdentity(name="scripted", bundle_sha256="ab" * 32))

    def Segment(self, request, context):
        return pb.SegmentResponse(verdict=pb.VERDICT_PASS, gate=pb.GATE_PASS)

    def Inspect(self, messages, context):
        self.opened.append(next(messages).open)
        self.callers.append(dict(context.invocation_metadata()).get("authorization", ""))
        yield pb.InspectResponse(heartbeat=pb.Heartbeat(serving=True))
        for answer in self.script(messages, context):
            yield pb.InspectResponse(answer=answer)


def answer(index: int, status: str = "OK", reason: str = "") -> pb.SegmentResponse:
    times = [pb.StageTiming(stage=stage, ms=ms) for stage, ms in (("decode", 1.0), ("total", 3.0))]
    return pb.SegmentResponse(index=index, status=f"FRAME_STATUS_{status}", reason=reason, timings=times)


@contextmanager
def serving(script: Script, credentials=None) -> Iterator[tuple[str, Scripted]]:
    servicer = Scripted(script)
    servicer.server = server = grpc.server(ThreadPoolExecutor(16), options=server_options(64))
    pb_grpc.add_InspectionServicer_to_server(servicer, server)
    add = server.add_insecure_port if credentials is None else server.add_secure_port
    port = add(*(each for each in ("127.0.0.1:0", credentials) if each is not None))
    server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        server.stop(0).wait()


def answers_all(messages, context):
    for index, _ in enumerate(messages):
        yield answer(index)
