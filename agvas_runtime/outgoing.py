"""What clients send: requests with their frame, and a camera's stream of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter

from agvas_runtime.apart import ENCODED_OF_INSPECT, ENCODED_OF_SEGMENT, OF_INSPECT, OF_SEGMENT, joined
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.wire import FrameIdentity, ImageLike, put_head, put_identity

USUAL_HEARTBEAT_MS, BEATS = 1000, 3
"""The server's own, and how many of them a stream may miss before it counts as lost."""


def silent_s(heartbeat_ms: int | None, timeout_s: float) -> float:
    """How long a stream may be silent: so long as an answer may take, and three heartbeats where that is longer."""
    return max(BEATS * (heartbeat_ms or USUAL_HEARTBEAT_MS) / 1000, timeout_s)


def with_frame(
    request: pb.SegmentRequest | pb.InspectRequest,
    image: ImageLike,
    pixel_format: str | None,
    identity: FrameIdentity | None,
) -> bytes:
    """A request with a frame, as it is sent. Raises InputError."""
    streamed = isinstance(request, pb.InspectRequest)
    frame = request.frame.frame if isinstance(request, pb.InspectRequest) else request.frame
    content = put_head(frame, image, pixel_format).data
    if identity is not None:
        put_identity(frame, identity)
    if frame.HasField("raw"):
        return joined(request, OF_INSPECT if streamed else OF_SEGMENT, content)
    return joined(request, ENCODED_OF_INSPECT if streamed else ENCODED_OF_SEGMENT, content)


def camera_stream(
    camera_id: str, policy: str, queue: int | None, heartbeat_ms: int | None, defaults: pb.SegmentRequest
) -> pb.CameraStream:
    """The message that opens a stream; raises InputError."""
    if policy not in ("latest", "block"):
        raise InputError(f"policy: found {policy!r}, expected latest or block")
    opening = pb.CameraStream(defaults=defaults, policy=pb.QueuePolicy.Value(f"QUEUE_POLICY_{policy.upper()}"))
    for name, value in (("camera_id", camera_id), ("queue", queue), ("heartbeat_ms", heartbeat_ms)):
        try:
            if value is not None:
                setattr(opening, name, value)
        except (ValueError, TypeError) as error:  # UnicodeEncodeError is a ValueError
            raise InputError(f"{name}: {error}") from None
    return opening


class Outgoing:
    """The messages of a stream, and when each frame was sent."""

    def __init__(
        self,
        opening: pb.CameraStream,
        frames: Iterable[ImageLike | tuple[ImageLike, FrameIdentity]],
        pixel_format: str | None,
        on_unsent: Callable[[FrameIdentity | None, InputError], None] | None,
    ) -> None:
        self.at: deque[float] = deque()
        """Of the frames that have no answer yet, the oldest first."""
        self.failure: Exception | None = None
        """What the frames' iterator raised, which ended the stream."""
        self._opening, self._frames, self._pixel_format = opening, frames, pixel_format
        self._on_unsent = on_unsent

    def messages(self) -> Iterator[bytes]:
        """All of them; gRPC iterates them in a thread of its own."""
        yield pb.InspectRequest(open=self._opening).SerializeToString()
        try:
            for image in self._frames:
                of_image, identity = image if isinstance(image, tuple) else (image, None)
                try:
                    request = with_frame(pb.InspectRequest(), of_image, self._pixel_format, identity)
                except InputError as error:
                    if self._on_unsent is None:
                        raise
                    self._on_unsent(identity, error)
                    continue
                self.at.append(perf_counter())
                yield request
        except Exception as error:
            self.failure = error
