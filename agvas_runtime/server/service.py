"""The `Inspection` service: checks a request, has the frame segmented, makes the reply. It knows no graphs.

Handlers' threads decode frames and make replies; the engines' own threads take frames from the lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from threading import BoundedSemaphore, Event, Lock
from time import perf_counter
from typing import Any

import grpc

from agvas_runtime.apart import METHODS, OF_INSPECT, OF_SEGMENT, Apart, decoder
from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.frames import MAX_PIXELS
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.segmenter import GroupMap, Text
from agvas_runtime.server import replies
from agvas_runtime.server.access import Bucket
from agvas_runtime.server.answers import failure_message, message_of, result_message
from agvas_runtime.server.engine.arena import ArenaFull
from agvas_runtime.server.engine.pool import EnginePool
from agvas_runtime.server.engine.task import EngineFacts, FrameResult
from agvas_runtime.server.guard import TooMuch, Undecodable, caller
from agvas_runtime.server.lanes import Answered, Fate, Lane, Lanes, NoResult, Ticket
from agvas_runtime.server.requests import Intake, Settings, identity_of
from agvas_runtime.server.scan import ScanSession
from agvas_runtime.server.scan_plan import Message as ScanMessage
from agvas_runtime.server.scan_plan import read_opening as read_scan_opening
from agvas_runtime.server.scan_plan import scan_decoder
from agvas_runtime.server.scan_tiles import MOST_TILES
from agvas_runtime.server.streams import CameraSession, read_opening

DECODERS: Mapping[str, Callable[[bytes], Apart[Any] | Undecodable]] = {
    f"{METHODS}Segment": decoder(pb.SegmentRequest, OF_SEGMENT),
    f"{METHODS}Explain": decoder(pb.SegmentRequest, OF_SEGMENT),
    f"{METHODS}Inspect": decoder(pb.InspectRequest, OF_INSPECT),
    f"{METHODS}Scan": scan_decoder(),
}
"""What the methods expect of the guard: their frames' pixels apart."""
NO_DEADLINE_S = 1e6
"""What gRPC says is left of a call without a deadline is a number, too."""

Asked = Apart[pb.SegmentRequest]


class InspectionService(pb_grpc.InspectionServicer):
    """Answers `Segment`, `Inspect`, `Scan`, `Explain` and `GetModel`.

    Args:
        intake: reads requests.
        lanes: where frames wait.
        pool: the engines.
        answered: told of every answer before it is sent, with the id of the call.
        opened: told of every stream that opens (1) and ends (-1), by its camera's id.
        max_waiting: calls of `Segment` and `Explain` that may be served at a time; one more is refused at once.
        max_streams: streams of `Inspect` and `Scan` that may be open at a time.
        rate_per_s: frames a second of a stream; any number where None.
        max_pixels: of a block of rows, and of a band of tiles.
    """

    def __init__(
        self,
        intake: Intake,
        lanes: Lanes,
        pool: EnginePool,
        answered: Callable[..., None] = lambda reply, request_id: None,
        opened: Callable[[str, int], None] = lambda camera_id, by: None,
        *,
        max_waiting: int = 16,
        max_streams: int = 32,
        rate_per_s: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._max_pixels = max_pixels
        self._intake, self._lanes, self._pool = intake, lanes, pool
        self._answered, self._opened = answered, opened
        self._max_waiting, self._max_streams, self._rate_per_s = max_waiting, max_streams, rate_per_s
        self._calls, self._streams = BoundedSemaphore(max_waiting), BoundedSemaphore(max_streams)
        self._call_lanes = _CallLanes(lanes, max_waiting)
        self._sessions: set[CameraSession | ScanSession] = set()
        self._lock, self._idling = Lock(), Lock()
        self._refusing = self._stopping = ""

    def refuse(self, reason: str) -> None:
        """Refuse new calls; the lanes do the same with the streams' frames."""
        self._refusing = reason

    def stop(self, reason: str) -> None:
        """Every open stream answers what it has read and ends."""
        with self._lock:
            self._stopping = reason
            sessions = list(self._sessions)
        for session in sessions:
            session.stop(reason)

    @property
    def open_streams(self) -> int:
        """Streams of `Inspect` and `Scan` now."""
        return len(self._sessions)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no call of `Segment` or `Explain` is served any more; false where that took too long."""
        until, taken = perf_counter() + timeout_s, 0
        if not self._idling.acquire(timeout=timeout_s):  # two that take places in turns would wait for each other
            return False
        while taken < self._max_waiting and self._calls.acquire(timeout=max(until - perf_counter(), 0)):
            taken += 1
        for _ in range(taken):
            self._calls.release()
        self._idling.release()
        return taken == self._max_waiting

    def Segment(self, asked: Asked, context: grpc.ServicerContext) -> pb.SegmentResponse:
        """One frame in, one verdict with its mask out."""
        with self.told(asked.message, context) as arrived:
            with self.place(), self.answer(asked, context, arrived) as (answered, settings, decode_ms):
                reply = result_message(answered, settings, arrived, decode_ms)
            return self.sent(reply, asked.message, context)

    @contextmanager
    def answer(
        self, asked: Asked, context: grpc.ServicerContext, arrived: float
    ) -> Iterator[tuple[Answered, Settings, float]]:
        """Have the frame of a call that has its place segmented; its block is for as long as the `with` block lasts.

        Gives the answer, what was asked by all settings, and the milliseconds that decoding took.
        """
        camera = asked.message.frame.identity.camera_id
        settings = self._intake.settings(asked.message, camera, Mode.DIRECT)
        block, decode_ms = self._intake.place(asked.message.frame, asked.pixels, settings)
        ticket = Ticket(block, settings.task, _deadline(settings, arrived, context), arrived=arrived)
        if not context.add_callback(ticket.cancel):
            ticket.cancel()
        with self._call_lanes.lane(camera or context.peer()) as lane:
            lane.offer(ticket)
            answered = ticket.outcome.result()
        try:
            yield answered, settings, decode_ms
        finally:
            answered.block.release()

    def Inspect(
        self, request_iterator: Iterator[Apart[pb.InspectRequest] | Undecodable], context: grpc.ServicerContext
    ) -> Iterator[pb.InspectResponse]:
        """A camera's stream."""

        def when_gone(leave: Callable[[], None]) -> None:
            if not context.add_callback(leave):
                leave()

        return self.stream(request_iterator, context.peer(), caller(context).request_id, when_gone)

    def stream(
        self,
        messages: Iterator[Apart[pb.InspectRequest] | Undecodable],
        peer: str,
        request_id: str,
        when_gone: Callable[[Callable[[], None]], None],
    ) -> Iterator[pb.InspectResponse]:
        """A camera's stream by whatever way it comes; `when_gone` is told what to call once the caller is gone."""
        with self.stream_place():
            plan = read_opening(next(messages, None), self._intake)
            bucket = self.bucket()
            lane = self._lanes.open(plan.camera_id or peer, plan.policy, plan.capacity)
            answered = partial(self._answered, request_id=request_id)
            session = CameraSession(plan, self._intake, lane, lambda: self._pool.reason, answered, bucket)
            with self._open(session, plan.camera_id), closing(session.answers(messages)) as answers:
                when_gone(session.leave)
                yield from answers

    def Scan(self, request_iterator: Iterator[ScanMessage], context: grpc.ServicerContext) -> Iterator[pb.ScanResponse]:
        """A line-scan camera's stream."""
        if not self._streams.acquire(blocking=False):
            raise TooMuch(f"{self._max_streams} streams are open already; close one first")
        try:
            plan = read_scan_opening(next(request_iterator, None), self._intake, self._max_pixels)
            bucket = self.bucket()
            lane = self._lanes.open(plan.camera_id or context.peer(), "block", MOST_TILES)
            answered = partial(self._answered, request_id=caller(context).request_id)
            session = ScanSession(
                plan, self._intake, lane, lambda: self._pool.reason, answered, self._max_pixels, bucket
            )
            with self._open(session, plan.camera_id), closing(session.events(request_iterator)) as events:
                if not context.add_callback(session.leave):
                    session.leave()
                yield from events
        finally:
            self._streams.release()

    def Explain(self, asked: Asked, context: grpc.ServicerContext) -> Iterator[pb.ExplainEvent]:
        """One frame in, its answer out as it is written."""
        with self.told(asked.message, context) as arrived, closing(self._explain(asked, context, arrived)) as events:
            yield from events

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        """The loaded model."""
        reply: pb.GetModelResponse = pb.GetModelResponse.FromString(self._pool.facts.model_reply)
        return reply

    def _explain(
        self, asked: Asked, context: grpc.ServicerContext, arrived: float
    ) -> Generator[pb.ExplainEvent, None, None]:
        request = asked.message
        gone, waited_ms, result = Event(), 0.0, None
        engines: list[EngineFacts] = []
        if not context.add_callback(gone.set):
            gone.set()
        with self.place():
            settings = self._intake.settings(request, request.frame.identity.camera_id, Mode.EXPLAIN)
            deadline = settings.deadline(arrived)

            def late() -> bool:
                return deadline is not None and not engines and perf_counter() >= deadline

            block, decode_ms = self._intake.place(request.frame, asked.pixels, settings)
            try:
                unwanted = lambda: gone.is_set() or late()  # noqa: E731
                with closing(self._pool.stream(block, settings.task, unwanted, engines.append)) as events:
                    since = perf_counter()
                    for event in events:
                        waited_ms += (perf_counter() - since) * 1000
                        if isinstance(event, Text):
                            yield pb.ExplainEvent(text=event.text)
                        elif isinstance(event, GroupMap):
                            threshold = settings.task.recipe.threshold_or(engines[-1].threshold)
                            group = replies.group_mask(event.index, event.probability, threshold, settings.message)
                            yield pb.ExplainEvent(group=group)
                        else:
                            result = event
                        since = perf_counter()
                if not isinstance(result, FrameResult):
                    raise AssertionError("a stream ends with its result")
                queue_ms = max(waited_ms - result.total_ms, 0.0)
                reply = message_of(result, block, engines[-1], settings, arrived, decode_ms, queue_ms)
            except Cancelled:
                if not late():
                    raise
                passed = f"the deadline of {settings.message.deadline_ms:g} ms passed before an engine was free"
                raise NoResult(Fate.EXPIRED, passed) from None
            finally:
                block.release()
        yield pb.ExplainEvent(result=self.sent(reply, request, context))

    def sent(
        self, reply: pb.SegmentResponse, request: pb.SegmentRequest, context: grpc.ServicerContext
    ) -> pb.SegmentResponse:
        """Tell of an answer, and give it back with its frame's identity."""
        reply.identity.CopyFrom(identity_of(request.frame))
        self._answered(reply, request_id=caller(context).request_id)
        return reply

    @contextmanager
    def told(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> Iterator[float]:
        """Tell of a frame that has no result, too; gives the time when the call came."""
        arrived = perf_counter()
        try:
            yield arrived
        except (InputError, NoResult, EngineError, ArenaFull, TooMuch) as error:
            if isinstance(error, NoResult) and error.fate is Fate.CANCELLED:  # nobody is there to be answered
                raise
            self.sent(failure_message(error, "reject", arrived), request, context)
            raise

    @contextmanager
    def _open(self, session: CameraSession | ScanSession, camera_id: str) -> Iterator[None]:
        """Keep a session among those that `stop` ends."""
        self._opened(camera_id, 1)
        with self._lock:
            self._sessions.add(session)
            if self._stopping:
                session.stop(self._stopping)
        try:
            yield
        finally:
            with self._lock:
                self._sessions.discard(session)
            self._opened(camera_id, -1)

    def bucket(self) -> Bucket | None:
        """What bounds the frames a second of a stream that begins now, if anything does."""
        return Bucket(self._rate_per_s) if self._rate_per_s else None

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among the calls that are served, while the block lasts. Raises NoResult, TooMuch."""
        if self._refusing:
            raise NoResult(Fate.REFUSED, self._refusing)
        if not self._calls.acquire(blocking=False):
            waiting = f"{self._max_waiting} frames are waiting for the engine already"
            raise TooMuch(f"{waiting}; send the next after an answer")
        try:
            yield
        finally:
            self._calls.release()

    @contextmanager
    def stream_place(self) -> Iterator[None]:
        """A place among the open streams, while the block lasts. Raises TooMuch."""
        if not self._streams.acquire(blocking=False):
            raise TooMuch(f"{self._max_streams} streams are open already; close one first")
        try:
            yield
        finally:
            self._streams.release()


class _CallLanes:
    """A lane for each camera that calls `Segment`, as long as it has frames in it."""

    def __init__(self, lanes: Lanes, capacity: int) -> None:
        self._lanes, self._capacity = lanes, capacity
        self._open: dict[str, tuple[Lane, int]] = {}
        self._lock = Lock()

    @contextmanager
    def lane(self, name: str) -> Iterator[Lane]:
        """The lane of this name, for a frame."""
        with self._lock:
            lane, users = self._open.get(name) or (self._lanes.open(name, "block", self._capacity), 0)
            self._open[name] = lane, users + 1
        try:
            yield lane
        finally:
            with self._lock:
                lane, users = self._open[name]
                if users == 1:
                    del self._open[name]
                    lane.close()
                else:
                    self._open[name] = lane, users - 1


def _deadline(settings: Settings, arrived: float, context: grpc.ServicerContext) -> float | None:
    """The earlier one of what the request and what the call says."""
    own, left = settings.deadline(arrived), context.time_remaining()
    if left is None or left > NO_DEADLINE_S:
        return own
    of_call = perf_counter() + float(left)
    return of_call if own is None else min(own, of_call)
