"""The load by the Open Inference Protocol (KServe v2): single calls, as many at a time as frames have no answer yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from threading import Semaphore, Thread
from time import perf_counter
from typing import Any

import grpc

from agvas_runtime.bench.load.connection import Connection, failure, reason_of, stamped
from agvas_runtime.bench.load.kserve_model import (
    choose_input,
    choose_model,
    choose_outputs,
    engine_ms_of,
    infer_request,
)
from agvas_runtime.bench.load.pictures import Picture
from agvas_runtime.bench.load.schedule import Camera
from agvas_runtime.bench.load.step import (
    CONNECT_S,
    CONNECTION_LOST,
    DROPPED,
    EXPIRED,
    INVALID,
    OK,
    Answer,
    Pace,
    Shot,
)
from agvas_runtime.errors import EngineError
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.proto.inference import open_inference_pb2_grpc as oi_grpc

INFER = "/inference.GRPCInferenceService/ModelInfer"
FIRST_S = 60.0
"""How long the frame may take that is asked for before the load: the first one can be slow."""
REFUSED = "REFUSED"
_OF_CODE = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: DROPPED,
    grpc.StatusCode.DEADLINE_EXCEEDED: EXPIRED,
    grpc.StatusCode.INVALID_ARGUMENT: INVALID,
    grpc.StatusCode.UNAVAILABLE: CONNECTION_LOST,
    grpc.StatusCode.CANCELLED: CONNECTION_LOST,
}
"""The statuses of our own streams; other codes keep their names."""


class KServeTarget:
    """A server that speaks the protocol: ours, Triton, KServe. A frame is asked for before there is any load.

    Args:
        connection: to it.
        pictures: what the cameras send, in turn.
        model: its name; the only one that the server lists, or ours, where None.
        input_name: the tensor that takes the frame; see `choose_input`.
        outputs: the tensors that are asked for; see `choose_outputs`.

    Raises InputError, EngineError: the server does not have what is named, or cannot be reached.
    """

    protocol = "kserve"

    def __init__(
        self,
        connection: Connection,
        pictures: Sequence[Picture],
        model: str | None,
        input_name: str | None,
        outputs: Sequence[str],
    ) -> None:
        self.address, self._connection, self._pictures = connection.address, connection, pictures
        with connection.shared() as channel:
            stub = oi_grpc.GRPCInferenceServiceStub(channel)
            try:
                self._metadata = self._find(stub, model)
                self._input = choose_input(self._metadata, pictures[0].encoded, input_name)
                self._outputs = choose_outputs(self._metadata, outputs)
                reply = stub.ModelInfer(self._request(pictures[0], None), timeout=FIRST_S)
            except grpc.RpcError as error:
                raise failure(self.address, error) from None
        self.model, sha256 = self._metadata.name, reply.parameters.get("bundle_sha256")
        self.model_sha256: str | None = sha256.string_param if sha256 is not None else None
        self._ready: dict[float | None, list[bytes]] = {}
        """Requests, one a picture, that only have to be sent; by the deadline in them."""

    def check(self) -> None:
        """See `Target`."""
        with self._connection.shared() as channel:
            check_live(channel, self.address, CONNECT_S)

    def open(self, camera: Camera, place: int, shots: list[Shot], pace: Pace) -> InferStation:
        """See `Target`."""
        deadline_ms = camera.deadline_ms
        if deadline_ms not in self._ready:
            requests = [self._request(each, deadline_ms) for each in self._pictures]
            self._ready[deadline_ms] = [each.SerializeToString() for each in requests]
        messages = self._ready[deadline_ms]
        return InferStation(self._connection, islice(cycle(messages), place % len(messages), None), shots, pace)

    def _find(self, stub: Any, model: str | None) -> oi.ModelMetadataResponse:
        if model is None:
            listed = stub.RepositoryIndex(oi.RepositoryIndexRequest(), timeout=CONNECT_S)
            model = choose_model([each.name for each in listed.models])
        found: oi.ModelMetadataResponse = stub.ModelMetadata(oi.ModelMetadataRequest(name=model), timeout=CONNECT_S)
        return found

    def _request(self, picture: Picture, deadline_ms: float | None) -> oi.ModelInferRequest:
        return infer_request(self._metadata, self._input, self._outputs, picture, deadline_ms)


class InferStation:
    """A camera that asks from one thread and hears of answers in gRPC's own."""

    def __init__(self, connection: Connection, messages: Iterator[bytes], shots: list[Shot], pace: Pace) -> None:
        self._connection, self._messages, self._shots, self._pace = connection, messages, shots, pace
        self._channel, self._answers = connection.own(), Semaphore(0)
        self._infer = self._channel.unary_unary(INFER, response_deserializer=stamped)
        self._sender = Thread(target=self._send, name="frames", daemon=True)
        self._sender.start()

    def connected(self, until: float) -> None:
        """See `Station`."""
        left_s = max(until - perf_counter(), 0.0)
        check_live(self._channel, self._connection.address, left_s)

    def finish(self, until: float) -> None:
        """See `Station`."""
        self._sender.join(max(until - perf_counter(), 0.0))
        for _ in self._shots:
            if not self._answers.acquire(timeout=max(until - perf_counter(), 0.0)):
                return

    def close(self) -> None:
        """See `Station`."""
        self._sender.join()
        self._channel.close()

    def _send(self) -> None:
        for shot, message in zip(self._shots, self._messages, strict=False):
            if not self._pace.wait(shot):
                return
            call = self._infer.future(message)
            call.add_done_callback(partial(self._take, shot))

    def _take(self, shot: Shot, call: Any) -> None:
        if not self._pace.over:
            shot.answer = answer_of(call)
        self._answers.release()


def check_live(channel: grpc.Channel, address: str, timeout_s: float) -> None:
    """Raise EngineError where no server answers in time."""
    stub = oi_grpc.GRPCInferenceServiceStub(channel)
    try:
        stub.ServerLive(oi.ServerLiveRequest(), timeout=timeout_s)
    except grpc.RpcError as error:
        raise EngineError(f"{address}: {reason_of(error)}") from None


def answer_of(call: Any) -> Answer:
    """What came back by a call that is done."""
    if call.code() is grpc.StatusCode.OK:
        at, data = call.result()
        return Answer(at, OK, engine_ms_of(oi.ModelInferResponse.FromString(data)))
    # UNAVAILABLE is the server's own word where anything came along with it, as from ours always does.
    refused = call.code() is grpc.StatusCode.UNAVAILABLE and call.trailing_metadata()
    status = REFUSED if refused else _OF_CODE.get(call.code(), call.code().name)
    return Answer(perf_counter(), status, reason=reason_of(call))
