"""What the service says when the engine fails, and when more frames wait than it takes. The transport is real."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from agvas_runtime.client import Client
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.service import MAX_WAITING, InspectionService

IMAGE = np.zeros((4, 4, 3), np.uint8)
RAW = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, width=4, height=4, data=IMAGE.tobytes())
REQUEST = pb.SegmentRequest(frame=pb.Frame(raw=RAW))


class Faulty:
    """A segmenter that fails in a given way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def segment(self, image, instruction, recipe):
        raise self.error


class Stuck:
    """A segmenter that returns only when told to, and then fails."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def segment(self, image, instruction, recipe):
        self.released.wait(60)
        raise EngineError("released")


@pytest.fixture
def serve():
    """Serves a segmenter in this process and returns the address."""
    servers = []

    def start(segmenter) -> str:
        server = grpc.server(ThreadPoolExecutor(MAX_WAITING + 4))
        pb_grpc.add_InspectionServicer_to_server(InspectionService(segmenter, pb.GetModelResponse()), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def status_of(address: str) -> tuple[grpc.StatusCode, str]:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        pb_grpc.InspectionStub(channel).Segment(REQUEST)
    return caught.value.code(), caught.value.details()


def test_a_failing_engine_is_an_internal_error_with_its_text(serve):
    address = serve(Faulty(EngineError("graph llm:\nout of memory")))
    assert status_of(address) == (grpc.StatusCode.INTERNAL, "graph llm: out of memory")
    with Client(address) as client, pytest.raises(EngineError, match="out of memory"):
        client.segment(IMAGE)


def test_an_unforeseen_fault_is_an_internal_error_and_the_server_lives_on(serve, capfd):
    address = serve(Faulty(ZeroDivisionError("oh")))
    assert status_of(address) == (grpc.StatusCode.INTERNAL, "ZeroDivisionError: oh")
    assert "Traceback" in capfd.readouterr().err
    assert status_of(address) == (grpc.StatusCode.INTERNAL, "ZeroDivisionError: oh")


def test_an_input_error_of_the_segmenter_is_the_caller_s(serve):
    address = serve(Faulty(InputError("instruction: no")))
    assert status_of(address) == (grpc.StatusCode.INVALID_ARGUMENT, "instruction: no")


def test_one_frame_more_than_may_wait_is_refused_at_once(serve):
    stuck = Stuck()
    address = serve(stuck)
    refused = threading.Event()
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.InspectionStub(channel)
        calls = [stub.Segment.future(REQUEST) for _ in range(MAX_WAITING + 1)]
        for call in calls:
            call.add_done_callback(lambda _: refused.set())
        assert refused.wait(60)
        stuck.released.set()
        codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 1
    assert codes.count(grpc.StatusCode.INTERNAL) == MAX_WAITING
