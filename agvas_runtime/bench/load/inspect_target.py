"""The load by our own protocol: a stream a camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from threading import Event, Thread
from time import perf_counter

import grpc

from agvas_runtime.apart import METHODS
from agvas_runtime.bench.load.connection import Connection, reason_of, stamped
from agvas_runtime.bench.load.pictures import Picture
from agvas_runtime.bench.load.schedule import Camera
from agvas_runtime.bench.load.step import CONNECTION_LOST, OK, Answer, Pace, Shot
from agvas_runtime.client import Client
from agvas_runtime.enums import status_of
from agvas_runtime.outgoing import camera_stream
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

PACKED = pb.MASK_FORMAT_PACKED_BITS


class InspectTarget:
    """A server of ours. A frame is asked for before there is any load, so that what cannot work says so at once.

    Args:
        connection: to it.
        pictures: what the cameras send, in turn.
        policy: of every stream, latest or block.

    Raises InputError, EngineError: as every method of `Client`.
    """

    protocol = "agvas"

    def __init__(self, connection: Connection, pictures: Sequence[Picture], policy: str) -> None:
        self.address, self._connection, self._policy = connection.address, connection, policy
        with Client(connection.address, **connection.options) as client:
            found = client.model()
            self.model, self.model_sha256 = found.name, found.bundle_sha256
            client.segment(pictures[0].image, mask="packed_bits")
        self._messages = [
            pb.InspectRequest(frame=pb.SegmentRequest(frame=_frame(each))).SerializeToString() for each in pictures
        ]

    def check(self) -> None:
        """See `Target`."""
        with Client(self.address, **self._connection.options) as client:
            client.model()

    def open(self, camera: Camera, place: int, shots: list[Shot], pace: Pace) -> InspectStation:
        """See `Target`. The deadline is the stream's; the server counts it from a frame's arrival there."""
        defaults = pb.SegmentRequest(mask_format=PACKED, deadline_ms=camera.deadline_ms)
        opening = camera_stream(camera.name, self._policy, None, None, defaults)
        frames = islice(cycle(self._messages), place % len(self._messages), None)
        return InspectStation(
            self._connection, pb.InspectRequest(open=opening), frames, shots, pace, self._policy == "block"
        )


class InspectStation:
    """A camera's stream. gRPC takes its frames in one thread, its answers are read in another.

    `held_back`: the server may stop reading, so what is sent late because of that is not the generator's own fault.
    """

    def __init__(
        self,
        connection: Connection,
        opening: pb.InspectRequest,
        frames: Iterator[bytes],
        shots: list[Shot],
        pace: Pace,
        held_back: bool,
    ) -> None:
        self._held_back = held_back
        self._opening, self._frames, self._shots, self._pace = opening.SerializeToString(), frames, shots, pace
        self._open = Event()
        self._channel = connection.own()
        self._call = self._channel.stream_stream(METHODS + "Inspect", response_deserializer=stamped)(self._messages())
        self._reader = Thread(target=self._read, name="answers", daemon=True)
        self._reader.start()

    def connected(self, until: float) -> None:
        """See `Station`: once the first heartbeat came, or the stream has ended; then its frames say why."""
        self._open.wait(max(until - perf_counter(), 0.0))

    def finish(self, until: float) -> None:
        """See `Station`: the server ends the stream behind the last answer."""
        self._reader.join(max(until - perf_counter(), 0.0))

    def close(self) -> None:
        """See `Station`."""
        self._call.cancel()
        self._reader.join()
        self._channel.close()

    def _messages(self) -> Iterator[bytes]:
        """All of them, each when it is due; gRPC asks for the next one when the one before is on its way."""
        yield self._opening
        for shot, frame in zip(self._shots, self._frames, strict=False):
            if not self._pace.wait(shot, free=perf_counter() if self._held_back else 0.0):
                return
            yield frame

    def _read(self) -> None:
        try:
            for at, data in self._call:
                message = pb.InspectResponse.FromString(data)
                if message.WhichOneof("event") == "heartbeat":
                    self._open.set()
                elif not self._pace.over:
                    self._shots[message.answer.index].answer = answer_from(message.answer, at)
            if self._shots and self._shots[-1].sent is None:
                self._lose("the server ended the stream")
        except grpc.RpcError as error:
            self._lose(reason_of(error))
        finally:
            self._open.set()

    def _lose(self, reason: str) -> None:
        """Every frame that has no answer, those that are not due yet included, will have none."""
        lost = Answer(perf_counter(), CONNECTION_LOST, reason=reason)
        for shot in self._shots:
            if shot.answer is None and not self._pace.over:
                shot.answer = lost


def answer_from(reply: pb.SegmentResponse, at: float) -> Answer:
    """What came back, and the engine's own time: all of its stages but decoding, as `docs/serving.md` has it.

    The status is UNKNOWN for one that only a newer server knows.
    """
    status = status_of(reply.status).upper()
    times_ms = {timing.stage: timing.ms for timing in reply.timings}
    told = status == OK and "total" in times_ms
    engine_ms = times_ms["total"] - times_ms.get("decode", 0.0) if told else None
    return Answer(at, status, engine_ms, "" if status == OK else reply.reason)


def _frame(picture: Picture) -> pb.Frame:
    if picture.encoded:
        return pb.Frame(encoded=picture.data)
    raw = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, height=picture.height, width=picture.width, data=picture.data)
    return pb.Frame(raw=raw)
