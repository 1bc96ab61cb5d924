"""A client of the inspection server: images in, verdicts with mask arrays out.

with Client("127.0.0.1:50051") as client:
    client.wait_ready(timeout_s=10)
    reply = client.segment("part.png")
    print(reply.verdict.value, reply.defect_area_px, reply.mask.shape)
"""

from __future__ import annotations

from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any, Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import client_options
from agvas_runtime.verdict import Recipe
from agvas_runtime.wire import (
    FrameIdentity,
    ImageLike,
    ModelInfo,
    SegmentReply,
    frame,
    identity_to,
    model_from,
    reply_from,
)

MaskChoice = Literal["png", "packed_bits", "none"]
ProbabilityChoice = Literal["none", "float32", "png16"]

_CONNECTION_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


class ConnectionLostError(EngineError):
    """No server answered: it is not there, went away, or took too long."""


class Client:
    """A connection to one server; safe to use from several threads.

    Args:
        address: `host:port`.
        timeout_s: longest time one call may take.

    Every method raises InputError with the server's text for a request the server finds wrong, ConnectionLostError
    when no server answers, and EngineError for everything else.
    """

    def __init__(self, address: str = "127.0.0.1:50051", timeout_s: float = 30.0) -> None:
        self.address, self.timeout_s = address, timeout_s
        self._channel = grpc.insecure_channel(address, options=client_options())
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
        """Return once the server serves; raises ConnectionLostError when it does not in time."""
        deadline, found = monotonic() + timeout_s, "no answer"
        while (left := deadline - monotonic()) > 0:
            try:
                reply = self._health.Check(health_pb2.HealthCheckRequest(), timeout=left, wait_for_ready=True)
            except grpc.RpcError as error:
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
            instruction: the bundle's default where None.
            recipe: when a region counts as a defect; the server's default where None.
            identity: comes back with the reply.
            pixel_format: names the format of an array where its dtype leaves a choice: BGR8, MONO10 or MONO12.
            mask: how the mask travels; it arrives as an array either way. "none" leaves it out.
            probability: how the probability map travels, if at all; "png16" rounds it to 1/65535.
            timeout_s: for this call.
        """
        request = pb.SegmentRequest(
            frame=frame(image, pixel_format),
            instruction=instruction or "",
            mask_format=pb.MaskFormat.Value(f"MASK_FORMAT_{mask.upper()}"),
            probability_format=pb.ProbabilityFormat.Value(f"PROBABILITY_FORMAT_{probability.upper()}"),
        )
        if instruction == "":
            raise InputError("instruction: found an empty text, expected a sentence, or None for the default")
        if recipe is not None:
            action = pb.NoAnswerAction.Value(f"NO_ANSWER_ACTION_{recipe.on_no_answer.upper()}")
            request.recipe.CopyFrom(
                pb.Recipe(min_area_px=recipe.min_area_px, min_score=recipe.min_score, on_no_answer=action)
            )
        if identity is not None:
            request.frame.identity.CopyFrom(identity_to(identity))
        started = perf_counter()
        reply = self._call(self._inspection.Segment, request, timeout_s)
        return reply_from(reply, (perf_counter() - started) * 1000)

    def model(self) -> ModelInfo:
        """What the server has loaded."""
        return model_from(self._call(self._inspection.GetModel, pb.GetModelRequest(), None))

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            return method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            code, text = error.code(), f"{self.address}: {_text_of(error)}"
            if code is grpc.StatusCode.INVALID_ARGUMENT:
                raise InputError(_text_of(error)) from None
            if code in _CONNECTION_CODES:
                raise ConnectionLostError(text) from None
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
                raise InputError(f"{text}; the server takes larger frames with --max-message-mb") from None
            raise EngineError(text) from None


def _text_of(error: grpc.RpcError) -> str:
    """The server's own text; gRPC's code where there is none."""
    return str(error.details() or error.code().name.lower().replace("_", " "))
