"""The service of the Open Inference Protocol: what its calls mean for the one model. Frames go the way of `Segment`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from time import perf_counter, sleep
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agvas_runtime.apart import Apart
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.answers import result_message
from agvas_runtime.server.guard import caller
from agvas_runtime.server.kserve import model
from agvas_runtime.server.kserve.inputs import read_tensors
from agvas_runtime.server.kserve.outputs import read_wanted, reply_of
from agvas_runtime.server.kserve.parameters import named, read_parameters
from agvas_runtime.server.kserve.regions import Region, Regions
from agvas_runtime.server.kserve.statistics import Statistics
from agvas_runtime.server.kserve.wire import InferRequest, decode, encode
from agvas_runtime.server.lanes import Fate, NoResult
from agvas_runtime.server.service import InspectionService
from agvas_runtime.server.statuses import Code, Denied, status_of
from agvas_runtime.server.tls import is_loopback

LOOK_S = 0.1
"""How often a stream that waits for its rate looks whether its caller is still there."""

METHODS = f"/{model.SERVICE}/"
DECODERS: Mapping[str, Callable[[bytes], InferRequest]] = {
    f"{METHODS}ModelInfer": decode,
    f"{METHODS}ModelStreamInfer": decode,
}
"""What these methods expect of the guard: tensors apart."""
NO_PICTURES = pb.SegmentRequest(mask_format=pb.MASK_FORMAT_NONE, probability_format=pb.PROBABILITY_FORMAT_NONE)
"""Mask and map are made into tensors, not into the pictures of a SegmentResponse."""


class KServeService:
    """Answers the methods of `open_inference.proto`.

    Args:
        inspection: has frames segmented.
        why_not: why no frames are taken; empty when they are.
        regions: shared memory of callers.
        max_pixels: of a frame.
        most_bytes: of a request's tensor that lies in shared memory, FRAME excepted.
    """

    def __init__(
        self,
        inspection: InspectionService,
        why_not: Callable[[], str],
        regions: Regions,
        *,
        max_pixels: int,
        most_bytes: int,
    ) -> None:
        self._inspection, self._why_not, self._regions = inspection, why_not, regions
        self._max_pixels, self._most_bytes = max_pixels, most_bytes
        self._statistics = Statistics()
        self._idle: set[grpc.ServicerContext] = set()
        self._lock = Lock()
        self._stopping = ""

    def stop(self, reason: str) -> None:
        """Streams end behind the answer that they are at."""
        with self._lock:
            self._stopping = reason
            idle = list(self._idle)
        for context in idle:
            context.cancel()

    def ServerLive(self, request: oi.ServerLiveRequest, context: grpc.ServicerContext) -> oi.ServerLiveResponse:
        """Whether there is a server."""
        return oi.ServerLiveResponse(live=True)

    def ServerReady(self, request: oi.ServerReadyRequest, context: grpc.ServicerContext) -> oi.ServerReadyResponse:
        """Whether frames are taken."""
        return oi.ServerReadyResponse(ready=not self._why_not())

    def ModelReady(self, request: oi.ModelReadyRequest, context: grpc.ServicerContext) -> oi.ModelReadyResponse:
        """The same of the model."""
        model.check_model(request.name, request.version)
        return oi.ModelReadyResponse(ready=not self._why_not())

    def ServerMetadata(
        self, request: oi.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> oi.ServerMetadataResponse:
        """What the server is."""
        return model.server_metadata()

    def ModelMetadata(
        self, request: oi.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> oi.ModelMetadataResponse:
        """What the model takes and gives."""
        model.check_model(request.name, request.version)
        return model.metadata()

    def ModelConfig(self, request: oi.ModelConfigRequest, context: grpc.ServicerContext) -> oi.ModelConfigResponse:
        """The same as Triton has it."""
        model.check_model(request.name, request.version)
        return oi.ModelConfigResponse(config=model.config())

    def ModelStatistics(
        self, request: oi.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> oi.ModelStatisticsResponse:
        """What became of requests."""
        model.check_model(request.name or model.NAME, request.version)
        return oi.ModelStatisticsResponse(model_stats=[self._statistics.read()])

    def RepositoryIndex(
        self, request: oi.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> oi.RepositoryIndexResponse:
        """All models, which is one."""
        reason = self._why_not()
        if request.ready and reason:
            return oi.RepositoryIndexResponse()
        state = "UNAVAILABLE" if reason else "READY"
        one = oi.RepositoryIndexResponse.ModelIndex(name=model.NAME, version=model.VERSION, state=state, reason=reason)
        return oi.RepositoryIndexResponse(models=[one])

    def SystemSharedMemoryStatus(
        self, request: oi.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> oi.SystemSharedMemoryStatusResponse:
        """The caller's regions."""
        owner = _owner(context)
        found = [self._regions.get(owner, request.name)] if request.name else self._regions.all(owner)
        reply = oi.SystemSharedMemoryStatusResponse()
        for each in found:
            status = reply.regions[each.name]
            status.name, status.key, status.offset, status.byte_size = each.name, each.key, each.offset, each.size
        return reply

    def SystemSharedMemoryRegister(
        self, request: oi.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> oi.SystemSharedMemoryRegisterResponse:
        """One region more."""
        self._regions.register(_owner(context), request.name, request.key, request.offset, request.byte_size)
        return oi.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(
        self, request: oi.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> oi.SystemSharedMemoryUnregisterResponse:
        """One less, or none any more."""
        self._regions.unregister(_owner(context), request.name)
        return oi.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, asked: InferRequest, context: grpc.ServicerContext) -> bytes:
        """One frame in, its tensors out."""
        return self._infer(asked, context)

    def ModelStreamInfer(self, requests: Iterator[InferRequest], context: grpc.ServicerContext) -> Iterator[bytes]:
        """A frame after the other."""
        with self._inspection.stream_place():
            cancellable, bucket = _Latest(context), self._inspection.bucket()
            while (asked := self._next(requests, context)) is not None:
                while bucket is not None and context.is_active() and not bucket.take():
                    sleep(min(bucket.wait_s(), LOOK_S))
                try:
                    reply = self._infer(asked, cancellable, streamed=True)
                except Exception as error:
                    code, text = status_of(error)
                    if code is Code.INTERNAL or not context.is_active():
                        raise
                    failed = oi.ModelStreamInferResponse(error_message=text)
                    failed.infer_response.id = asked.message.id
                    reply = failed.SerializeToString()
                yield reply

    def _next(self, requests: Iterator[InferRequest], context: grpc.ServicerContext) -> InferRequest | None:
        """The next request of a stream, None at its end. Raises NoResult where the server stops."""
        with self._lock:
            if self._stopping:
                raise NoResult(Fate.REFUSED, self._stopping)
            self._idle.add(context)
        try:
            return next(requests, None)
        finally:
            with self._lock:
                self._idle.discard(context)

    def _infer(self, asked: InferRequest, context: Any, *, streamed: bool = False) -> bytes:
        model.check_model(asked.message.model_name, asked.message.model_version)
        request = pb.SegmentRequest(mask_format=pb.MASK_FORMAT_NONE)
        with self._inspection.told(request, context) as arrived, self._counted(arrived), named():
            began = perf_counter()
            with self._inspection.place():
                colours = read_parameters(asked.message, request)
                find = self._finder(context)
                pixels = read_tensors(
                    asked, request, colours, find, max_pixels=self._max_pixels, most_bytes=self._most_bytes
                )
                wanted = read_wanted(asked.message, find)
                has_map = any(each.name == "PROBABILITY" for each in wanted)
                request.probability_format = pb.PROBABILITY_FORMAT_FLOAT32 if has_map else pb.PROBABILITY_FORMAT_NONE
                read_ms = (perf_counter() - began) * 1000
                of_frame = Apart(request, pixels)
                with self._inspection.answer(of_frame, context, arrived) as (answered, settings, decode_ms):
                    making = perf_counter()
                    told = result_message(answered, replace(settings, message=NO_PICTURES), arrived, decode_ms)
                    head, contents = reply_of(asked.message, wanted, answered.block, told)
                    reply = encode(head, contents, streamed=streamed)
            self._inspection.sent(told, request, context)
            done = perf_counter()
            self._statistics.answered(
                (done - arrived) * 1000,
                queue=answered.queue_ms,
                compute_input=read_ms + decode_ms,
                compute_infer=answered.result.total_ms,
                compute_output=(done - making) * 1000,
            )
        return reply

    def _finder(self, context: grpc.ServicerContext) -> Callable[[str], Region]:
        """Finds the caller's regions."""
        return lambda name: self._regions.get(_owner(context), name)

    @contextmanager
    def _counted(self, arrived: float) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._statistics.failed((perf_counter() - arrived) * 1000)
            raise


class _Latest:
    """A stream's context for one request after the other: only the latest one is cancelled when the caller goes."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._cancel: Callable[[], None] = lambda: None
        context.add_callback(lambda: self._cancel())

    def add_callback(self, cancel: Callable[[], None]) -> bool:
        """See `grpc.RpcContext`."""
        self._cancel = cancel
        return bool(self._context.is_active())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def add_to(server: grpc.Server, service: object) -> None:
    """Serve it; what is bytes already is sent as it is."""
    handlers: dict[str, grpc.RpcMethodHandler] = {}
    for method in oi.DESCRIPTOR.services_by_name[model.SERVICE.rpartition(".")[2]].methods:
        streams = method.client_streaming
        make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        read = GetMessageClass(method.input_type).FromString
        handlers[method.name] = make(getattr(service, method.name), read, _serialized)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(model.SERVICE, handlers),))


def _serialized(reply: bytes | Message) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _owner(context: grpc.ServicerContext) -> str:
    """Whose regions a caller's are; raises Denied for callers on other machines."""
    who = caller(context)
    if who.host != "unix" and not is_loopback(who.host):
        raise Denied("shared memory is for callers on the server's own machine")
    return who.name
