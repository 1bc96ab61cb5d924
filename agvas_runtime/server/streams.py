"""One camera's `Inspect` stream: frames are accepted in one thread, answered in their order in another.

Every frame that was read has its place in the line of answers before anything is done with it, so none is lost and none
overtakes another. A caller who does not take answers is not read from any more: nothing piles up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from threading import Condition, Thread
from time import perf_counter

from agvas_runtime.apart import Apart
from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.access import Bucket
from agvas_runtime.server.answers import failure_message, free_unread, result_message
from agvas_runtime.server.guard import Undecodable
from agvas_runtime.server.lanes import Answered, Fate, Lane, NoResult, Policy, Ticket
from agvas_runtime.server.requests import Intake, Settings, check_ids, identity_of, own_fields

MOST_UNTAKEN = 64
"""Answers that may wait to be taken, or made, before no further frame is read."""
MOST_DROPPED = 1024
"""The same where frames give way to newer ones, while the answer in front of theirs is still being made."""
MOST_SPARE, MOST_SHARE = 8, 0.25
"""Frames of a stream in shared memory beyond those in its queue: in engines, or answered and not taken yet; and what
share of the memory they may take, unless it is one alone. Else one who does not read would fill the memory of all."""
MOST_WAITING = 64
USUAL_WAITING = {"latest": 1, "block": 4}
POLICIES: dict[int, Policy] = {
    pb.QUEUE_POLICY_UNSPECIFIED: "latest",
    pb.QUEUE_POLICY_LATEST: "latest",
    pb.QUEUE_POLICY_BLOCK: "block",
}
ROOM_S = 1.0
"""How long a frame that may be dropped waits for room in shared memory."""

log = logging.getLogger("agvas.stream")
Message = Apart[pb.InspectRequest] | Undecodable


@dataclass(frozen=True)
class StreamPlan:
    """How a stream was opened, checked."""

    camera_id: str
    policy: Policy
    capacity: int
    heartbeat_s: float
    defaults: pb.SegmentRequest
    settings: Settings
    """Of a frame that asks for nothing of its own."""


def read_opening(message: Message | None, intake: Intake) -> StreamPlan:
    """The first message of a stream, read; raises InputError naming the field."""
    if isinstance(message, Undecodable):
        raise InputError(message.reason)
    found = None if message is None else message.message.WhichOneof("event")
    if message is None or found != "open":
        found = found or "nothing"
        raise InputError(f"event: the first message of a stream opens it: found {found}, expected open")
    asked = message.message.open
    check_ids(asked, "open")
    if asked.policy not in POLICIES:
        raise InputError(f"open.policy: found {asked.policy}, expected LATEST or BLOCK")
    policy = POLICIES[asked.policy]
    capacity = asked.queue if asked.HasField("queue") else USUAL_WAITING[policy]
    if not 1 <= capacity <= MOST_WAITING:
        raise InputError(f"open.queue: found {capacity}, expected 1 to {MOST_WAITING}")
    heartbeat_ms = asked.heartbeat_ms if asked.HasField("heartbeat_ms") else 1000
    if not 100 <= heartbeat_ms <= 60_000:
        raise InputError(f"open.heartbeat_ms: found {heartbeat_ms}, expected 100 to 60000")
    if asked.defaults.HasField("frame"):
        raise InputError("open.defaults.frame: found a frame, expected none")
    defaults = own_fields(asked.defaults)
    settings = intake.settings(pb.SegmentRequest(), asked.camera_id, Mode.DIRECT, defaults)
    return StreamPlan(asked.camera_id, policy, capacity, heartbeat_ms / 1000, defaults, settings)


@dataclass
class _Place:
    """A frame's place in the line of answers."""

    index: int
    arrived: float
    settings: Settings | None = None
    """None where the frame could not be read so far."""
    identity: pb.FrameIdentity = field(default_factory=pb.FrameIdentity)
    decode_ms: float = 0.0
    ticket: Ticket | None = None
    failure: Exception | None = None
    """Why there is no ticket."""

    def done(self) -> bool:
        return self.failure is not None or (self.ticket is not None and self.ticket.outcome.done())

    @property
    def waits(self) -> bool:
        """Whether its frame waits for an engine."""
        return self.ticket is not None and self.ticket.waits

    @property
    def held_bytes(self) -> int:
        """Of shared memory, where its frame lies, as its answer does."""
        if self.ticket is None or (self.ticket.outcome.done() and self.ticket.outcome.exception()):
            return 0
        return self.ticket.block.token.nbytes


class CameraSession:
    """A stream while it is open.

    Args:
        plan: how it was opened.
        intake: reads its frames.
        lane: its queue.
        serving: "" while an engine is ready, else why none is.
        answered: told of every answer before it is sent.
        bucket: bounds the frames a second, if at all.
    """

    def __init__(
        self,
        plan: StreamPlan,
        intake: Intake,
        lane: Lane,
        serving: Callable[[], str],
        answered: Callable[[pb.SegmentResponse], None],
        bucket: Bucket | None = None,
    ) -> None:
        self._plan, self._intake, self._lane = plan, intake, lane
        self._serving, self._answered, self._bucket = serving, answered, bucket
        self._places: deque[_Place] = deque()
        self._changed = Condition()
        self._ended = self._gone = False
        self._stopping = ""
        self._index = 0

    def leave(self) -> None:
        """The caller is gone: nobody takes answers any more."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._lane.close()

    def stop(self, reason: str) -> None:
        """Read no further frame, answer those that were read, then end the stream with UNAVAILABLE and this reason."""
        with self._changed:
            self._stopping = reason
            self._changed.notify_all()

    def answers(self, messages: Iterator[Message]) -> Generator[pb.InspectResponse, None, None]:
        """Answers in the order of the frames, heartbeats in between; the first one comes at once.

        Raises NoResult at the end where the server stops, Cancelled where the caller is gone.
        """
        Thread(target=self._read, args=(messages,), name="frames", daemon=True).start()
        try:
            yield self._heartbeat()
            beat = perf_counter() + self._plan.heartbeat_s
            while not self._gone:
                place = self._next_done(beat)
                if place is not None:
                    yield pb.InspectResponse(answer=self._answer(place))
                elif self._finished():
                    return
                if perf_counter() >= beat:
                    yield self._heartbeat()
                    beat = perf_counter() + self._plan.heartbeat_s
            raise Cancelled
        finally:
            self.leave()
            self._abandon()

    def _next_done(self, until: float) -> _Place | None:
        """The first place in line, once it is done; None at that time, or when there is nothing more to wait for."""
        with self._changed:
            while not self._gone:
                if self._places and self._places[0].done():
                    place = self._places.popleft()
                    self._changed.notify_all()
                    return place
                left = until - perf_counter()
                if left <= 0 or (not self._places and (self._ended or self._stopping)):
                    return None
                self._changed.wait(left)
        return None

    def _finished(self) -> bool:
        """Whether every answer is given and no frame follows. Raises NoResult where the server stops."""
        with self._changed:
            if self._places or self._gone:
                return self._gone
            if self._stopping:
                raise NoResult(Fate.REFUSED, self._stopping)
            return self._ended

    def _heartbeat(self) -> pb.InspectResponse:
        reason = self._serving()
        beat = pb.Heartbeat(serving=not reason, waiting=len(self._places), reason=reason)
        return pb.InspectResponse(heartbeat=beat)

    def _read(self, messages: Iterable[Message]) -> None:
        """Accept frames until the caller has no more, goes away, or the server stops."""
        try:
            for message in messages:
                arrived = perf_counter()
                wanted = self._room()
                if self._gone:
                    return
                self._accept(message, arrived)
                if not wanted:  # it was read all the same
                    return
        except Exception as error:  # so gRPC ends the iterator of a call that is cancelled
            if not self._gone:
                log.debug("the stream of %s broke off: %s", self._plan.camera_id, error)
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Wait until a further answer may wait; whether a further frame is wanted at all."""
        with self._changed:
            self._changed.wait_for(lambda: self._may_grow() or self._gone or self._stopping)
            return not (self._gone or self._stopping)

    def _may_grow(self) -> bool:
        latest = self._plan.policy == "latest"
        untaken = not latest or (self._places and self._places[0].done())
        if len(self._places) >= (MOST_UNTAKEN if untaken else MOST_DROPPED):
            return False
        held = [(place, size) for place in self._places if (size := place.held_bytes)]
        if len(held) >= self._plan.capacity + MOST_SPARE:
            return False
        waiting = [each for each in held if each[0].waits]
        if latest and len(waiting) >= self._plan.capacity:
            held.remove(waiting[0])  # it gives way to the next
        sizes = [size for _, size in held]
        return not sizes or sum(sizes) + max(sizes) <= MOST_SHARE * self._intake.memory_bytes

    def _accept(self, message: Message, arrived: float) -> None:
        """Give a frame its place in line and its ticket, or the reason why it has none."""
        place = _Place(self._index, arrived)
        self._index += 1
        place.identity.camera_id = self._plan.camera_id
        with self._changed:
            self._places.append(place)
        try:
            place.ticket = ticket = self._ticket(place, message)
            ticket.outcome.add_done_callback(lambda _: self._notify())
            self._lane.offer(ticket)
        except Exception as error:
            place.settings = place.settings or self._usual_settings()
            place.failure = error
        self._notify()

    def _usual_settings(self) -> Settings:
        """Of a frame that asks for nothing of its own, by the recipe as it is now."""
        try:
            return self._intake.settings(pb.SegmentRequest(), self._plan.camera_id, Mode.DIRECT, self._plan.defaults)
        except InputError:  # the recipe is gone
            return self._plan.settings

    def _ticket(self, place: _Place, message: Message) -> Ticket:
        """Read a frame. Raises InputError, NoResult, ArenaFull."""
        if isinstance(message, Undecodable):
            raise InputError(message.reason)
        event = message.message.WhichOneof("event")
        if event != "frame":
            raise InputError(f"event: found {event or 'nothing'}, expected frame")
        request = message.message.frame
        place.identity.MergeFrom(identity_of(request.frame))
        settings = self._intake.settings(request, place.identity.camera_id, Mode.DIRECT, self._plan.defaults)
        place.settings = settings
        if self._stopping:
            raise NoResult(Fate.REFUSED, self._stopping)
        self._pace()
        deadline = settings.deadline(place.arrived)
        wait_s = ROOM_S if deadline is None else max(min(ROOM_S, deadline - perf_counter()), 0)
        block, place.decode_ms = self._intake.place(
            request.frame, message.pixels, settings, wait_s, lambda: self._waits_on(deadline)
        )
        return Ticket(block, settings.task, deadline, arrived=place.arrived)

    def _waits_on(self, deadline: float | None) -> bool:
        """Whether a frame waits on for room in memory. Raises NoResult where nobody would have anything of that."""
        if self._gone or self._stopping:
            raise NoResult(Fate.REFUSED, self._stopping or "the caller is gone")
        if deadline is not None and perf_counter() >= deadline:
            raise NoResult(Fate.EXPIRED, "the deadline passed before there was room in memory")
        return self._plan.policy == "block"

    def _pace(self) -> None:
        """Hold a camera to its rate: by waiting where frames may wait, else by dropping them."""
        while self._bucket is not None and not self._bucket.take():
            if self._plan.policy == "latest":
                raise NoResult(Fate.DROPPED, "the camera is over the server's rate of frames")
            with self._changed:
                if self._changed.wait_for(lambda: self._gone or self._stopping, self._bucket.wait_s()):
                    raise NoResult(Fate.REFUSED, self._stopping or "the caller is gone")

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _answer(self, place: _Place) -> pb.SegmentResponse:
        """The message for a place that is done."""
        assert place.settings is not None  # it is done
        on_no_answer = str(place.settings.task.recipe.on_no_answer)
        try:
            reply = self._result(place)
        except Exception as error:
            try:
                reply = failure_message(error, on_no_answer, place.arrived)
            except Exception as unforeseen:
                log.exception("a frame of %s could not be answered", self._plan.camera_id)
                told = EngineError(type(unforeseen).__name__)
                reply = failure_message(told, on_no_answer, place.arrived)
        reply.index = place.index
        reply.identity.CopyFrom(place.identity)
        reply.recipe_name = place.settings.recipe_name
        self._answered(reply)
        return reply

    def _result(self, place: _Place) -> pb.SegmentResponse:
        if place.failure is not None:
            raise place.failure
        assert place.ticket is not None
        assert place.settings is not None
        answered: Answered = place.ticket.outcome.result()
        try:
            return result_message(answered, place.settings, place.arrived, place.decode_ms)
        finally:
            answered.block.release()

    def _abandon(self) -> None:
        """Nobody takes what is still in line: free what it holds."""
        with self._changed:
            places, self._places = list(self._places), deque()
        for ticket in (place.ticket for place in places if place.ticket is not None):
            ticket.cancel()
            ticket.outcome.add_done_callback(free_unread)
