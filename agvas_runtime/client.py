"""A client of the inspection server: images in, verdicts with mask arrays out.

with Client("127.0.0.1:50051") as client:
    client.wait_ready(timeout_s=10)
    reply = client.segment("part.png")
    print(reply.verdict.value, reply.defect_area_px, reply.mask.shape)
    for event in client.explain("part.png"):
        print(event, end="") if isinstance(event, str) else print(type(event))
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any, Literal, get_args

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import open_channel
from agvas_runtime.verdict import Recipe
from agvas_runtime.wire import (
    FrameIdentity,
    GroupMask,
    ImageLike,
    ModelInfo,
    SegmentReply,
    decoding_to,
    event_from,
    frame,
    identity_to,
    model_from,
    recipe_to,
    reply_from,
    request_to,
)
from agvas_runtime.writer import Decoding

MaskChoice = Literal["png", "packed_bits", "none", "coco_rle", "polygons"]
ProbabilityChoice = Literal["none", "float32", "png16", "float16"]

_CONNECTION_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
_ACCESS_CODES = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class ConnectionLostError(EngineError):
    """No server answered: it is not there, went away, or took too long."""


class AccessDeniedError(EngineError):
    """The server does not know who calls, or does not let this caller do that."""


class Client:
    """A connection to one server; safe to use from several threads.

    Args:
        address: `host:port`.
        timeout_s: longest time one call may take.
        token: for a server with an access file. Without `ca` it is sent to this machine only.
        ca: PEM file of who signed the server's certificate; there is TLS where it is given.
        cert: PEM file with a certificate to show, for a server that asks for one.
        key: PEM file with its private key.

    Every method raises InputError with the server's text for a request the server finds wrong, AccessDeniedError where
    it turns the caller away, ConnectionLostError when no server answers, and EngineError for everything else. The
    constructor raises InputError for files or a token that cannot be used; it does not connect.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        timeout_s: float = 30.0,
        *,
        token: str | None = None,
        ca: Path | str | None = None,
        cert: Path | str | None = None,
        key: Path | str | None = None,
    ) -> None:
        self.address, self.timeout_s = address, timeout_s
        self._channel = open_channel(address, token=token, ca=ca, cert=cert, key=key)
        self._inspection = pb_grpc.InspectionStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return once the server serves; raises ConnectionLostError when it does not in time, AccessDeniedError."""
        deadline, found = monotonic() + timeout_s, "no answer"
        while (left := deadline - monotonic()) > 0:
            try:
                reply = self._health.Check(health_pb2.HealthCheckRequest(), timeout=left, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() in _ACCESS_CODES:
                    raise self._error(error) from None
                found = _text_of(error)
                break
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
            found = "not serving"
            sleep(min(0.05, left))
        raise ConnectionLostError(f"{self.address}: not ready after {timeout_s:g} s: {found}")

    def segment(
        self,
        image: ImageLike,
        instruction: str | None = None,
        *,
        mode: Mode = Mode.DIRECT,
        class_name: str | None = None,
        normal_look: str | None = None,
        decoding: Decoding = Decoding(),
        recipe: Recipe | None = None,
        identity: FrameIdentity | None = None,
        pixel_format: str | None = None,
        mask: MaskChoice = "packed_bits",
        probability: ProbabilityChoice = "none",
        timeout_s: float | None = None,
    ) -> SegmentReply:
        """Have one frame segmented.

        Args:
            image: path or bytes of an image file; or an array: uint8 [H, W, 3] (RGB), uint8 [H, W] (MONO8) or
                uint16 [H, W] (MONO16).
            instruction: the user's own instruction or question; the mode's where None.
            mode: what the model is asked for.
            class_name: what to look for, put into the mode's instruction.
            normal_look: a sentence on the normal look of the object, for describe-plus.
            decoding: how the answer is written.
            recipe: when a region counts as a defect; what is not set in it is the server's recipe's, or the default.
            identity: comes back with the reply.
            pixel_format: names the format of an array where its dtype leaves a choice: BGR8, MONO10 or MONO12.
            mask: how the mask travels; it arrives as an array either way, of "polygons" the outlines as well. "none"
                leaves it out.
            probability: how the probability map travels, if at all; "png16" rounds it to 1/65535, "float16" to 11 bits.
            timeout_s: for this call.
        """
        request = _request(Request(mode, instruction, class_name, normal_look), decoding, recipe, mask, probability)
        _add_frame(request, image, pixel_format, identity)
        started = perf_counter()
        reply = self._call(self._inspection.Segment, request, timeout_s)
        return reply_from(reply, (perf_counter() - started) * 1000)

    def explain(
        self,
        image: ImageLike,
        instruction: str | None = None,
        *,
        mode: Mode = Mode.EXPLAIN,
        class_name: str | None = None,
        normal_look: str | None = None,
        decoding: Decoding = Decoding(),
        recipe: Recipe | None = None,
        identity: FrameIdentity | None = None,
        pixel_format: str | None = None,
        mask: MaskChoice = "packed_bits",
        probability: ProbabilityChoice = "none",
        timeout_s: float | None = None,
    ) -> Generator[str | GroupMask | SegmentReply, None, None]:
        """Have one frame segmented and see its answer as it is written.

        Arguments are those of `segment`; `timeout_s` is for the whole answer.

        Yields:
            Pieces of text, each group's mask as soon as its anchors are written, and last the reply that `segment`
            would have given; that one decides. The call begins with the first; closing the iterator cancels it.
        """
        request = _request(Request(mode, instruction, class_name, normal_look), decoding, recipe, mask, probability)
        _add_frame(request, image, pixel_format, identity)
        return self._events(request, self.timeout_s if timeout_s is None else timeout_s)

    def model(self) -> ModelInfo:
        """What the server has loaded."""
        return model_from(self._call(self._inspection.GetModel, pb.GetModelRequest(), None))

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def _events(
        self, request: pb.SegmentRequest, timeout_s: float
    ) -> Generator[str | GroupMask | SegmentReply, None, None]:
        started = perf_counter()
        call = self._inspection.Explain(request, timeout=timeout_s)
        try:
            for event in call:
                yield event_from(event, (perf_counter() - started) * 1000)
        except grpc.RpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()

    def _error(self, error: grpc.RpcError) -> Exception:
        """What a failed call means to its caller."""
        code, text = error.code(), f"{self.address}: {_text_of(error)}"
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return InputError(_text_of(error))
        if code in _CONNECTION_CODES:
            return ConnectionLostError(text)
        if code in _ACCESS_CODES:
            return AccessDeniedError(text)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
            return InputError(f"{text}; the server takes larger frames with --max-message-mb")
        return EngineError(text)


def _request(
    asked: Request, decoding: Decoding, recipe: Recipe | None, mask: MaskChoice, probability: ProbabilityChoice
) -> pb.SegmentRequest:
    """The request without its frame; raises InputError."""
    request = request_to(asked)
    request.decoding.CopyFrom(decoding_to(decoding))
    for field, found, choices in (
        ("mask", mask, get_args(MaskChoice)),
        ("probability", probability, get_args(ProbabilityChoice)),
    ):
        if found not in choices:
            raise InputError(f"{field}: found {found!r}, expected {', '.join(choices)}")
    request.mask_format = pb.MaskFormat.Value(f"MASK_FORMAT_{mask.upper()}")
    request.probability_format = pb.ProbabilityFormat.Value(f"PROBABILITY_FORMAT_{probability.upper()}")
    if recipe is not None:
        request.recipe.CopyFrom(recipe_to(recipe))
    return request


def _add_frame(
    request: pb.SegmentRequest, image: ImageLike, pixel_format: str | None, identity: FrameIdentity | None
) -> None:
    request.frame.CopyFrom(frame(image, pixel_format))
    if identity is not None:
        request.frame.identity.CopyFrom(identity_to(identity))


def _text_of(error: grpc.RpcError) -> str:
    """The server's own text; gRPC's code where there is none."""
    return str(error.details() or error.code().name.lower().replace("_", " "))
