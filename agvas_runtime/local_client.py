"""A client on the server's own machine: frames in shared memory, answers over a Unix socket.

with LocalClient("/run/agvas/local.sock") as client:
    reply = client.segment(frame)
    for reply in client.inspect(frames, camera_id="line-1"):
        print(reply.status, reply.verdict.value, reply.gate)
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from threading import BoundedSemaphore, Lock, Thread
from time import monotonic, perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.asked import Asked, request_of
from agvas_runtime.client import ConnectionLostError, DeadlineMissedError
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.local_wire import (
    END,
    HELLO,
    REPLY_HEAD,
    REQUEST_HEAD,
    Hangup,
    receive_exactly,
    send_memory,
)
from agvas_runtime.outgoing import camera_stream, silent_s
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.wire import (
    FrameIdentity,
    ImageLike,
    SegmentReply,
    put_head,
    put_identity,
    reply_from,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

SLOTS = 16
"""Frames of a stream that may be on their way, those included that wait at the server."""
QUIET_MS = 60_000
"""Between heartbeats where nobody looks at them."""


class LocalClient:
    """Talks to the server that listens at a path (`agvas-runtime serve --local PATH`). For several threads.

    Args:
        path: of the server's socket.
        timeout_s: longest time that an answer may take. A stream counts as lost when it is silent for so long, or for
            three heartbeats where that is longer.
        largest_frame_mb: bytes of the largest frame, in MiB; memory is taken only for what is used of it.

    Methods raise what those of `Client` do, but where a frame's engine died twice or none is ready: EngineError. The
    constructor does not connect.
    """

    def __init__(self, path: Path | str, timeout_s: float = 30.0, *, largest_frame_mb: int = 64) -> None:
        self.path, self.timeout_s = Path(path), timeout_s
        self._slot_bytes = largest_frame_mb << 20
        self._streams: set[_Stream] = set()
        """Those of `inspect` that are open."""
        self._stream: _Stream | None = None
        """That of `segment`."""
        self._used = 0.0
        """When it last was, by the monotonic clock."""
        self._asked: tuple[str | None, Asked] = (None, {})
        self._request = request_of(None, {})
        """What was asked last, which is what will be asked next, and its message."""
        self._lock = Lock()

    def __enter__(self) -> LocalClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections, once no call waits; a stream that goes on ends as if the server had gone away."""
        for stream in list(self._streams):
            stream.cut()
        with self._lock:
            self._end()

    def segment(
        self,
        image: ImageLike,
        instruction: str | None = None,
        *,
        identity: FrameIdentity | None = None,
        pixel_format: str | None = None,
        **asked: Unpack[Asked],
    ) -> SegmentReply:
        """Have one frame segmented, see `Client.segment`. Threads wait for each other."""
        with self._lock:
            if not _same(self._asked, (instruction, asked)):
                self._request = request_of(instruction, asked)
                self._asked = instruction, asked
            quiet = monotonic() - self._used > QUIET_MS / 1000  # heartbeats that nobody reads would fill the way
            if self._stream is not None and (quiet or self._stream.ended()):
                self._end()
            try:
                if self._stream is None:
                    opening = pb.CameraStream(policy=pb.QUEUE_POLICY_BLOCK, heartbeat_ms=QUIET_MS)
                    self._stream = _Stream(self.path, self.timeout_s, self._slot_bytes, 1, opening)
                self._stream.send(self._request, image, pixel_format, identity)
                reply = self._stream.answer()
                self._used = monotonic()
            except BaseException:
                self._end()
                raise
        if reply is None:
            raise ConnectionLostError(f"{self.path}: the server ended the stream")
        return _checked(reply, str(self.path))

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
        """Stream a camera's frames, see `Client.inspect`."""
        opening = camera_stream(camera_id, policy, queue, heartbeat_ms, request_of(instruction, asked))
        return self._answers(opening, frames, pixel_format, on_heartbeat, on_unsent)

    def _answers(
        self,
        opening: pb.CameraStream,
        frames: Iterable[ImageLike | tuple[ImageLike, FrameIdentity]],
        pixel_format: str | None,
        on_heartbeat: Callable[[str], None],
        on_unsent: Callable[[FrameIdentity | None, InputError], None] | None,
    ) -> Generator[SegmentReply, None, None]:
        limit_s = silent_s(opening.heartbeat_ms, self.timeout_s)
        stream = _Stream(self.path, self.timeout_s, self._slot_bytes, SLOTS, opening, limit_s)
        failures, request = list[Exception](), pb.SegmentRequest()

        def send() -> None:
            try:
                for image in frames:
                    of_image, identity = image if isinstance(image, tuple) else (image, None)
                    try:
                        stream.send(request, of_image, pixel_format, identity)
                    except InputError as error:
                        if on_unsent is None:
                            raise
                        on_unsent(identity, error)
            except ConnectionLostError:  # whoever reads the answers finds out, too
                pass
            except Exception as error:
                failures.append(error)
            finally:
                stream.finish()

        self._streams.add(stream)
        with closing(stream):
            Thread(target=send, name="frames", daemon=True).start()
            try:
                while (reply := stream.answer(on_heartbeat)) is not None:
                    yield reply
            finally:
                self._streams.discard(stream)
            unanswered = len(stream.sent)
        if failures:
            raise failures[0]
        if unanswered:
            raise ConnectionLostError(f"{self.path}: the server ended the stream; {unanswered} frames have no answer")

    def _end(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _Stream:
    """A connection, and the memory of the frames that are on their way: a slot each, in turn."""

    def __init__(
        self,
        path: Path,
        timeout_s: float,
        slot_bytes: int,
        slots: int,
        opening: pb.CameraStream,
        limit_s: float | None = None,
    ) -> None:
        self.sent: deque[float] = deque()
        """When each frame was sent that has no answer yet."""
        self._path, self._slot_bytes, self._slots = path, slot_bytes, slots
        self._like: tuple[object, ...] = ()
        self._message = b""
        """What the last array was, and its message: the next ones are like it."""
        self._free, self._next, self._closed = BoundedSemaphore(slots), 0, False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        fd = os.memfd_create("agvas-camera", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.truncate(fd, slots * slot_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self._memory = np.frombuffer(mmap.mmap(fd, slots * slot_bytes), np.uint8)
            self._socket.connect(str(path))
            send_memory(self._socket, fd)
            if receive_exactly(self._socket, len(HELLO)) != HELLO:
                raise Hangup("found no agvas server")
            self._send(pb.InspectRequest(open=opening).SerializeToString(), 0, 0)
            self._socket.settimeout(limit_s or timeout_s)
        except (OSError, Hangup) as error:
            self.close()
            raise self._lost(error) from None
        finally:
            os.close(fd)

    def send(
        self,
        request: pb.SegmentRequest,
        image: ImageLike,
        pixel_format: str | None,
        identity: FrameIdentity | None = None,
    ) -> None:
        """Send a frame, once there is a slot for it; raises InputError, ConnectionLostError.

        A request that is sent again must be the same as it was.
        """
        if isinstance(image, np.ndarray) and identity is None:
            content, message = self._as_before(request, image, pixel_format)
        else:
            content, message = _parted(request, image, pixel_format, identity)
        if content.size > self._slot_bytes:
            limit = f"at most largest_frame_mb, {self._slot_bytes >> 20} MiB"
            raise InputError(f"image: found a frame of {content.size} bytes, expected {limit}")
        self._free.acquire()
        if self._closed:
            raise ConnectionLostError(f"{self._path}: the stream was closed")
        offset = self._next % self._slots * self._slot_bytes
        self._next += 1
        self._memory[offset : offset + content.size] = content
        self.sent.append(perf_counter())
        try:
            self._send(message, offset, content.size)
        except OSError as error:
            raise self._lost(error) from None

    def answer(self, on_heartbeat: Callable[[str], None] = lambda reason: None) -> SegmentReply | None:
        """The next answer; None after the last one. Raises what the stream ended with, ConnectionLostError."""
        while True:
            try:
                kind, content = self._received()
            except (OSError, Hangup) as error:
                raise self._lost(error) from None
            if kind == END:
                code, _, text = content.decode().partition(" ")
                if code == "OK":
                    return None
                raise _error(code, f"{self._path}: {text}", text)
            message = pb.InspectResponse.FromString(content)
            if message.WhichOneof("event") == "answer":
                with suppress(ValueError):
                    self._free.release()
                return reply_from(message.answer, (perf_counter() - self.sent.popleft()) * 1000)
            on_heartbeat(message.heartbeat.reason)

    def finish(self) -> None:
        """No frame follows."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def ended(self) -> bool:
        """Whether the server has ended it, or is gone, since the last answer; heartbeats are passed over."""
        while self._readable.poll(0):
            try:
                kind, _ = self._received()
            except (OSError, Hangup):
                return True
            if kind == END:
                return True
        return False

    def cut(self) -> None:
        """End it from another thread: whoever waits for an answer finds the server gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it; whoever waits for a slot goes on."""
        self._closed = True
        self._socket.close()
        with suppress(ValueError):
            while True:
                self._free.release()

    def _as_before(
        self, request: pb.SegmentRequest, image: NDArray[Any], pixel_format: str | None
    ) -> tuple[NDArray[np.uint8], bytes]:
        """`_parted` of an array, whose message is not made again where it is like the one before."""
        like = request, image.shape, image.dtype, pixel_format
        if like == self._like and image.flags.c_contiguous:
            return image.reshape(-1).view(np.uint8), self._message
        content, message = _parted(request, image, pixel_format, None)
        as_it_lies = image.dtype == image.dtype.newbyteorder("<")  # else its bytes must be turned round
        if as_it_lies and image.flags.c_contiguous:  # grey as RGB, which is none, has another message
            self._like, self._message = like, message
        return content, message

    def _send(self, message: bytes, offset: int, size: int) -> None:
        self._socket.sendall(REQUEST_HEAD.pack(len(message), offset, size) + message)

    def _received(self) -> tuple[int, bytes]:
        head = receive_exactly(self._socket, REPLY_HEAD.size)
        if not head:
            raise Hangup("the server went away")
        kind, size = REPLY_HEAD.unpack(head)
        return kind, receive_exactly(self._socket, size) if size else b""

    def _lost(self, error: Exception) -> ConnectionLostError:
        reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        reason = (error.strerror or reason).lower() if isinstance(error, OSError) else reason
        unanswered = f"; {len(self.sent)} frames have no answer" if self.sent else ""
        return ConnectionLostError(f"{self._path}: {reason}{unanswered}")


def _same(some: tuple[str | None, Mapping[str, object]], others: tuple[str | None, Mapping[str, object]]) -> bool:
    """Whether the very same was asked. Recipes that are equal may not be: what was set of them counts."""
    (instruction, asked), (other, of_others) = some, others
    return (
        instruction == other
        and len(asked) == len(of_others)
        and all(name in of_others and of_others[name] is value for name, value in asked.items())
    )


def _parted(
    request: pb.SegmentRequest, image: ImageLike, pixel_format: str | None, identity: FrameIdentity | None
) -> tuple[NDArray[np.uint8], bytes]:
    """The bytes of a frame, and the message that goes with them. Raises InputError."""
    message = pb.InspectRequest(frame=request)
    frame = message.frame.frame
    if identity is not None:
        put_identity(frame, identity)
    content = put_head(frame, image, pixel_format)
    if not frame.HasField("raw"):
        frame.encoded = b""  # so much the server is told even of a file without a byte
    return content, message.SerializeToString()


def _error(code: str, shown: str, text: str) -> Exception:
    """What a stream's end means to its caller."""
    if code == "INVALID_ARGUMENT":
        return InputError(text)
    return ConnectionLostError(shown) if code in ("UNAVAILABLE", "CANCELLED") else EngineError(shown)


def _checked(reply: SegmentReply, path: str) -> SegmentReply:
    """The reply of a single frame, which `Client.segment` raises where it is none."""
    if reply.status == "ok":
        return reply
    if reply.status == "invalid":
        raise InputError(reply.reason)
    if reply.status == "expired":
        raise DeadlineMissedError(f"{path}: {reply.reason}")
    if reply.status == "refused":
        raise ConnectionLostError(f"{path}: {reply.reason}")
    raise EngineError(f"{path}: {reply.reason}")
