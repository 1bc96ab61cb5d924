"""A server in this process, and what tests do to it: its engine stands still or dies, its memory fills, its callers go.

Transport, engine process and shared memory are the real ones.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from time import monotonic

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from agvas_runtime.proto.agvas.v1 import admin_pb2_grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import client_options
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.lanes import Ticket
from agvas_runtime.server.serve import InspectionServer
from agvas_runtime.server.streams import CameraSession
from tests.conftest import DEMO_FRAMES

WAIT_S = 60.0
IMAGES = [np.asarray(Image.open(path).convert("RGB").resize((120, 90))) for path in sorted(DEMO_FRAMES.glob("*.jpg"))]
"""Frames that are quickly answered; number 2 has a defect, number 1 none."""
DEFECT, NORMAL = 2, 3


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true."""
    end, pause = monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert monotonic() < end
        pause.wait(0.005)


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def raw(image: np.ndarray) -> pb.Frame:
    height, width, _ = image.shape
    return pb.Frame(
        raw=pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, width=width, height=height, data=image.tobytes())
    )


def request(
    image: int | np.ndarray = DEFECT, *, identity: pb.FrameIdentity | None = None, **fields
) -> pb.SegmentRequest:
    """A request for one of `IMAGES`, or for an image."""
    asked = pb.SegmentRequest(frame=raw(IMAGES[image] if isinstance(image, int) else image), **fields)
    if identity is not None:
        asked.frame.identity.CopyFrom(identity)
    return asked


class Stream:
    """A camera's stream whose messages are given one by one."""

    def __init__(self, live: "Live", *first: pb.InspectRequest, **opening) -> None:
        self._messages = SimpleQueue[pb.InspectRequest | None]()
        for message in first or [pb.InspectRequest(open=pb.CameraStream(**{"camera_id": "camera", **opening}))]:
            self._messages.put(message)
        self.call = live.inspection.Inspect(iter(self._messages.get, None), timeout=WAIT_S)

    def send(self, *requests: pb.SegmentRequest) -> None:
        for each in requests:
            self._messages.put(pb.InspectRequest(frame=each))

    def finish(self) -> None:
        """No frame follows."""
        self._messages.put(None)

    def close(self) -> None:
        """Go away."""
        self._messages.put(None)
        self.call.cancel()

    def heartbeat(self) -> pb.Heartbeat:
        """The next one."""
        return next(event.heartbeat for event in self.call if event.WhichOneof("event") == "heartbeat")

    def answers(self, count: int | None = None) -> list[pb.SegmentResponse]:
        """So many, or all that come until the stream ends."""
        found = []
        while count is None or len(found) < count:
            event = next(self.call, None)
            if event is None:
                break
            if event.WhichOneof("event") == "answer":
                found.append(event.answer)
        return found

    def code(self) -> grpc.StatusCode:
        """How it ended, once it has; what still comes is passed over."""
        with suppress(grpc.RpcError):
            for _ in self.call:
                pass
        return self.call.code()


class Live:
    """The server, with a connection to it."""

    def __init__(self, server: InspectionServer, channel: grpc.Channel) -> None:
        self.server, self.channel = server, channel
        self.address = f"127.0.0.1:{server.port}"
        self.inspection, self.admin = pb_grpc.InspectionStub(channel), admin_pb2_grpc.AdminStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.pool, self.lanes, self.arena = server._pool, server._lanes, server._arena
        self.streams: list[Stream] = []
        self.computed: list[Ticket] = []
        """Frames that an engine has answered in this test."""

    def open(self, *first: pb.InspectRequest, **opening) -> Stream:
        self.streams.append(Stream(self, *first, **opening))
        return self.streams[-1]

    @property
    def pid(self) -> int:
        """Of the engine."""
        return self.pool.facts.pid

    @property
    def waiting(self) -> int:
        """Frames that no engine has."""
        return self.lanes.waiting

    @property
    def accepted(self) -> int:
        """Frames that are not answered, those in the engine included."""
        return len(self.lanes._open)

    def serving(self) -> bool:
        reply = self.health.Check(health_pb2.HealthCheckRequest(service="agvas.v1.Inspection"))
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    def session(self, camera_id: str) -> CameraSession | None:
        """The server's side of a camera's stream, once it is open."""
        sessions = list(self.server._service._sessions)
        return next((session for session in sessions if session._plan.camera_id == camera_id), None)

    def places(self, camera_id: str = "camera") -> list:
        """Its frames in the line of their answers."""
        session = self.session(camera_id)
        return [] if session is None else list(session._places)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[int]:
        """The engine stands still for as long as the block lasts."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def full_memory(self) -> Iterator[None]:
        """There is no room for a further frame for as long as the block lasts."""
        until(lambda: self.arena.free_bytes == self.arena.size)
        with ExitStack() as blocks:
            for start, size in reversed(list(self.arena._gaps)):
                block = self.arena.place(np.zeros((1, size // 8, 3), np.uint8))
                assert block.token.offset >= start
                blocks.callback(block.release)
            assert self.arena.free_bytes == 0
            yield

    def as_new(self) -> None:
        """Leave the server as it was; whatever a test did, nothing holds memory, a place or a thread."""
        for stream in self.streams:
            stream.close()
        self.streams.clear()
        until(lambda: self.pool.ready and self.serving())
        until(lambda: self.server._service.open_streams == 0 and self.accepted == 0)
        until(lambda: self.arena.free_bytes == self.arena.size)
        until(lambda: len(self.lanes._lanes) == 1)  # the server's own
        until(lambda: not any(thread.name == "frames" for thread in threading.enumerate()))
        self.inspection.Segment(request())  # the next death of an engine is its first one again
        self.computed.clear()


@contextmanager
def live_server(**config) -> Iterator[Live]:
    """A server that answers; frames are segmented one by one unless it is told otherwise, so that they are exact."""
    server = InspectionServer(ServerConfig(port=0, **{"threads": 1, "max_batch": 1, **config}))
    try:
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=client_options()) as channel:
            live = Live(server, channel)
            live.pool.observe = lambda ticket, answered: live.computed.append(ticket)
            yield live
    finally:
        server.stop()
    assert not any(alive(engine.pid) for engine in server.engines() if engine.pid)
