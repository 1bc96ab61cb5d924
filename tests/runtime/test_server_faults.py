"""What the service says when the engine fails, and when more frames wait than it takes. The transport is real."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import pytest

from agvas_runtime.client import Client
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import server_options
from agvas_runtime.server.service import MAX_WAITING, InspectionService

IMAGE = np.zeros((4, 4, 3), np.uint8)
RAW = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, width=4, height=4, data=IMAGE.tobytes())
REQUEST = pb.SegmentRequest(frame=pb.Frame(raw=RAW))


class Faulty:
    """A segmenter that fails in a given way."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def segment_batch(self, images, request, recipe, **options):
        raise self.error


class Stuck:
    """A segmenter that returns only when told to, and then fails."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def segment_batch(self, images, request, recipe, **options):
        self.released.wait(60)
        raise EngineError("released")


@contextmanager
def serving(segmenter, threshold: float = 0.5) -> Iterator[str]:
    """The address of a server in this process that has this segmenter; it stops as a real one does."""
    server = grpc.server(ThreadPoolExecutor(MAX_WAITING + 4), options=server_options(64))
    service = InspectionService(segmenter, pb.GetModelResponse(threshold=threshold))
    pb_grpc.add_InspectionServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        service.close()


@pytest.fixture
def serve():
    """Serves a segmenter in this process and returns the address."""
    with ExitStack() as servers:
        yield lambda segmenter: servers.enter_context(serving(segmenter))


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
