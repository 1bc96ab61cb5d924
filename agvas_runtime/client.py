"""A client of the inspection server: images in, verdicts with mask arrays out.

with Client("127.0.0.1:50051") as client:
    client.wait_ready(timeout_s=10)
    reply = client.segment("part.png")
    print(reply.verdict.value, reply.defect_area_px, reply.mask.shape)
    for event in client.explain("part.png"):
        print(event, end="") if isinstance(event, str) else print(type(event))
    for reply in client.inspect(["a.png", "b.png"], camera_id="line-1"):
        print(reply.status, reply.verdict.value, reply.gate)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import grpc
from grpc_health.v1 import health_pb2

from agvas_runtime.apart import METHODS
from agvas_runtime.asked import Asked, request_of
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.outgoing import Outgoing, camera_stream, silent_s, with_frame
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.scan_wire import Rows, ScanEvent, WebSettings
from agvas_runtime.scan_wire import event_from as scan_event_from
from agvas_runtime.server.channel import open_channel
from agvas_runtime.silence import Silent, heard
from agvas_runtime.wire import (
    FrameIdentity,
    GroupMask,
    ImageLike,
    ModelInfo,
    SegmentReply,
    event_from,
    model_from,
    reply_from,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_CONNECTION_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
_PASSING_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
"""Of a server that may be ready a moment later."""
_ACCESS_CODES = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class ConnectionLostError(EngineError):
    """No server answered: it is not there, went away, or took too long."""


class DeadlineMissedError(EngineError):
    """The server did not compute the frame, since its deadline had passed before an engine was free."""


class AccessDeniedError(EngineError):
    """The server does not know who calls, or does not let this caller do that."""


class Client:
    """A connection to one server; safe to use from several threads.

    Args:
        address: `host:port`.
        timeout_s: longest time one call may take. A stream counts as lost when it is silent for so long, or for three
            heartbeats where that is longer.
        token: for a server with an access file. Without `ca` it is sent to this machine only.
        ca: PEM file of who signed the server's certificate; there is TLS where it is given.
        cert: PEM file with a certificate to show, for a server that asks for one.
        key: PEM file with its private key.

    Every method raises InputError with the server's text for a request the server finds wrong, AccessDeniedError where
    it turns the caller away, DeadlineMissedError for a frame whose deadline passed there, ConnectionLostError when no
    server answers or the client was closed, and EngineError for everything else. The constructor raises InputError for
    files or a token that cannot be used; it does not connect.
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
        self.address, self.timeout_s, self._with_tls = address, timeout_s, ca is not None
        self._closed = False
        self._channel = open_channel(address, token=token, ca=ca, cert=cert, key=key)
        # Not by the stubs: with a token, what they call on a channel that is closed ends the process (gRPC 1.85).
        self._check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check", None, health_pb2.HealthCheckResponse.FromString
        )
        self._get_model = self._channel.unary_unary(f"{METHODS}GetModel", None, pb.GetModelResponse.FromString)
        self._segment = self._channel.unary_unary(f"{METHODS}Segment", None, pb.SegmentResponse.FromString)
        self._explain = self._channel.unary_stream(f"{METHODS}Explain", None, pb.ExplainEvent.FromString)
        self._inspect = self._channel.stream_stream(f"{METHODS}Inspect", None, pb.InspectResponse.FromString)
        self._scan = self._channel.stream_stream(f"{METHODS}Scan", None, pb.ScanResponse.FromString)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; no call can be made any more."""
        self._closed = True
        self._channel.close()

    def wait_ready(self, timeout_s: float = 10.0) -> None:
        """Return once the server serves; raises ConnectionLostError when it does not in time, AccessDeniedError."""
        deadline, found = monotonic() + timeout_s, "no answer"
        asked = health_pb2.HealthCheckRequest().SerializeToString()
        while (left := deadline - monotonic()) > 0:
            try:
                reply = self._begin(self._check, asked, timeout=left, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() in _ACCESS_CODES:
                    raise self._error(error) from None
                found = _text_of(error)
                if found.startswith("Channel closed"):  # by another thread
                    break
                if error.code() in _PASSING_CODES:
                    sleep(min(0.2, left))
                    continue
                break
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
            found = "not serving"
            sleep(min(0.05, left))
        hint = "" if self._with_tls else "; if it asks for TLS, give ca"
        raise ConnectionLostError(f"{self.address}: not ready after {timeout_s:g} s: {found}{hint}")

    def segment(
        self,
        image: ImageLike,
        instruction: str | None = None,
        *,
        identity: FrameIdentity | None = None,
        pixel_format: str | None = None,
        timeout_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> SegmentReply:
        """Have one frame segmented.

        Args:
            image: path or bytes of an image file; an array: uint8 [H, W, 3] (RGB), [H, W, 4] (RGBA), [H, W] (MONO8) or
                uint16 [H, W] (MONO16); or a `wire.RawFrame`, a sensor's bytes in any format of the protocol.
            instruction: the user's own instruction or question; the recipe's, or the mode's, where None.
            identity: comes back with the reply.
            pixel_format: names the format of an array where its dtype leaves a choice: BGR8, MONO12, BAYER_RG8.
            timeout_s: for this call.
            asked: see `Asked`.
        """
        request = with_frame(request_of(instruction, asked), image, pixel_format, identity)
        started = perf_counter()
        reply = self._call(self._segment, request, timeout_s)
        return reply_from(reply, (perf_counter() - started) * 1000)

    def explain(
        self,
        image: ImageLike,
        instruction: str | None = None,
        *,
        identity: FrameIdentity | None = None,
        pixel_format: str | None = None,
        timeout_s: float | None = None,
        **asked: Unpack[Asked],
    ) -> Generator[str | GroupMask | SegmentReply, None, None]:
        """Have one frame segmented and see its answer as it is written.

        Arguments are those of `segment`; the mode is explain where none is said, `timeout_s` is for the whole answer.

        Yields:
            Pieces of text, each group's mask as soon as its anchors are written, and last the reply that `segment`
            would have given; that one decides. The call begins with the first; closing the iterator cancels it.
        """
        request = with_frame(request_of(instruction, asked), image, pixel_format, identity)
        return self._events(request, self.timeout_s if timeout_s is None else timeout_s)

    def inspect(
        self,
        frames: Iterable[ImageLike | tuple[ImageLike, FrameIdentity]],
        instruction: str | None = None,
        *,
        camera_id: str = "",
        policy: Literal["latest", "block"] = "block",
        queue: int | None = None,
        heartbeat_ms: int | None = None,
        on_heartbeat: Callable[[str], None] = lambda reason: None,
        on_unsent: Callable[[FrameIdentity | None, InputError], None] | None = None,
        pixel_format: str | None = None,
        **asked: Unpack[Asked],
    ) -> Generator[SegmentReply, None, None]:
        """Stream a camera's frames; they are taken and sent from another thread, as they come.

        Args:
            frames: images as `segment` takes them, each alone or with its identity.
            instruction: of every frame; as for `segment`.
            camera_id: of frames whose identity names none; also chooses the camera's recipe.
            policy: where frames come faster than answers: "latest" answers the oldest waiting one DROPPED, "block"
                holds the sender back.
            queue: frames that may wait at the server, 1 to 64; 1 with "latest", 4 with "block" where None.
            heartbeat_ms: between heartbeats; 1000 where None.
            on_heartbeat: called with "" while the server has an engine, else with the reason why not.
            on_unsent: called, from the other thread, with a frame that cannot be sent and why: it is left out, and the
                next ones are sent. Where None, it ends the stream.
            pixel_format: of all arrays, as for `segment`.
            asked: of every frame, see `Asked`.

        Yields:
            One reply a frame, in their order. Look at `status`: where it is not "ok" the verdict is NO_ANSWER and the
            gate does what the recipe says.

        Raises:
            InputError, AccessDeniedError, EngineError: as every method, and what `frames` raises.
            ConnectionLostError: the stream broke off; its text says how many frames, the last ones, have no answer.
        """
        opening = camera_stream(camera_id, policy, queue, heartbeat_ms, request_of(instruction, asked))
        limit_s = silent_s(opening.heartbeat_ms, self.timeout_s)
        return self._answers(Outgoing(opening, frames, pixel_format, on_unsent), on_heartbeat, limit_s)

    def scan(
        self,
        web: WebSettings,
        blocks: Iterable[Rows | tuple[Rows, int]],
        instruction: str | None = None,
        *,
        on_heartbeat: Callable[[str], None] = lambda reason: None,
        **asked: Unpack[Asked],
    ) -> Generator[ScanEvent, None, None]:
        """Stream a line-scan camera's rows; they are taken and sent from another thread, as they come.

        Args:
            web: how the stream is opened.
            blocks: rows in blocks of any height, see `WebSettings.block`, each alone or with its encoder count.
            instruction: asked about every tile.
            on_heartbeat: called with "" while the server has an engine, else with the reason why not.
            asked: of every tile, see `Asked`; pictures are not sent.

        Yields:
            Defects as soon as they are complete, progress, skipped rows, and last the summary.

        Raises:
            InputError, AccessDeniedError, ConnectionLostError, EngineError: as every method, and what `blocks` raises.
        """
        opening, failures = web.message(request_of(instruction, asked)), list[Exception]()

        def messages() -> Iterator[bytes]:
            yield opening.SerializeToString()
            try:
                for block in blocks:
                    yield web.block(*block) if isinstance(block, tuple) else web.block(block)
            except Exception as error:
                failures.append(error)

        return self._scan_events(messages(), on_heartbeat, failures, silent_s(web.heartbeat_ms, self.timeout_s))

    def model(self) -> ModelInfo:
        """What the server has loaded."""
        return model_from(self._call(self._get_model, pb.GetModelRequest().SerializeToString(), None))

    def _begin(self, method: Any, request: Any, **options: Any) -> Any:
        """Call a method of the channel. Raises ConnectionLostError where it is closed, grpc.RpcError."""
        if not self._closed:
            try:
                return method(request, **options)
            except ValueError:  # so gRPC says that the channel is closed
                if not self._closed:
                    raise
        raise ConnectionLostError(f"{self.address}: the client is closed")

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        started, limit_s = perf_counter(), self.timeout_s if timeout_s is None else timeout_s
        try:
            return self._begin(method, request, timeout=limit_s)
        except grpc.RpcError as error:
            # When the call's own time is up the server notices it, too: it does not matter whose word is here first.
            raise self._error(error, in_time=perf_counter() - started < limit_s) from None

    def _events(self, request: bytes, timeout_s: float) -> Generator[str | GroupMask | SegmentReply, None, None]:
        started = perf_counter()
        call = self._begin(self._explain, request, timeout=timeout_s)
        try:
            for event in call:
                yield event_from(event, (perf_counter() - started) * 1000)
        except grpc.RpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()

    def _answers(
        self, sent: Outgoing, on_heartbeat: Callable[[str], None], limit_s: float
    ) -> Generator[SegmentReply, None, None]:
        call = self._begin(self._inspect, sent.messages())
        try:
            for message in heard(call, limit_s):
                if message.WhichOneof("event") == "answer":
                    yield reply_from(message.answer, (perf_counter() - sent.at.popleft()) * 1000)
                else:
                    on_heartbeat(message.heartbeat.reason)
        except (grpc.RpcError, Silent) as error:
            lost = self._error(error) if isinstance(error, grpc.RpcError) else self._silent(error)
            if isinstance(lost, ConnectionLostError):
                lost = ConnectionLostError(f"{lost}; {len(sent.at)} frames have no answer")
            raise lost from None
        finally:
            call.cancel()
        if sent.failure is not None:
            raise sent.failure

    def _scan_events(
        self, messages: Iterator[bytes], on_heartbeat: Callable[[str], None], failures: list[Exception], limit_s: float
    ) -> Generator[ScanEvent, None, None]:
        call = self._begin(self._scan, messages)
        try:
            for message in heard(call, limit_s):
                event = scan_event_from(message)
                if isinstance(event, str):
                    on_heartbeat(event)
                else:
                    yield event
        except grpc.RpcError as error:
            raise self._error(error) from None
        except Silent as error:
            raise self._silent(error) from None
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    def _silent(self, error: Silent) -> ConnectionLostError:
        """What a stream means that was cut since nothing came."""
        return ConnectionLostError(f"{self.address}: {error}")

    def _error(self, error: grpc.RpcError, in_time: bool = True) -> Exception:
        """What a failed call means to its caller."""
        code, text = error.code(), f"{self.address}: {_text_of(error)}"
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return InputError(_text_of(error))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and in_time and "the deadline of" in text:
            return DeadlineMissedError(text)
        if code in _CONNECTION_CODES:
            return ConnectionLostError(text)
        if code in _ACCESS_CODES:
            return AccessDeniedError(text)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
            return InputError(f"{text}; the server takes larger frames with --max-message-mb")
        return EngineError(text)


def _text_of(error: grpc.RpcError) -> str:
    """The server's own text; gRPC's code where there is none."""
    return str(error.details() or error.code().name.lower().replace("_", " "))
