"""Every part of a camera, and the one decision that its gate gets: the server's, or by the rule for no answer."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from threading import Condition
from time import monotonic
from typing import Literal

from agvas_runtime.camera.source import Captured
from agvas_runtime.enums import GateAction
from agvas_runtime.verdict import Verdict
from agvas_runtime.wire import FrameIdentity, FrameStatus, ImageLike, SegmentReply

Status = FrameStatus | Literal["timed_out", "unreachable"]
"""The server's, see docs/protocol.md; `invalid` is also a frame that the camera broke, `dropped` also one that gave way
before it was sent. `timed_out`: no answer by the camera's own deadline. `unreachable`: no server was there."""
MOST_IMAGES = 16
"""Parts without a decision whose frames are kept, for pictures of rejects."""
LATENCIES = 10_000


@dataclass
class Part:
    """One trigger of the camera."""

    sequence: int
    captured: Captured
    deadline: float
    """By the monotonic clock."""
    image: ImageLike | None
    """Kept for a picture; let go of where too many parts wait."""


@dataclass(frozen=True)
class Decision:
    """What the gate does with a part, and why."""

    camera_id: str
    sequence: int
    part_id: str
    trigger_id: str
    capture_time: datetime
    status: Status
    verdict: Verdict
    gate: GateAction
    reason: str
    latency_ms: float
    """From the capture to the decision."""
    reply: SegmentReply | None = None
    """The server's answer, where the decision is its own."""
    image: ImageLike | None = None


class Gate:
    """A camera's parts. Safe to use from several threads.

    Args:
        camera_id: goes along with every frame.
        deadline_s: from a part's capture to its decision, at the latest.
        on_no_answer: what happens to a part without a result.
        decided: told of every decision, in the order in which they are made; it must not wait for anything.
        keep_images: whether decisions are to have their frames.
    """

    def __init__(
        self,
        camera_id: str,
        deadline_s: float,
        on_no_answer: GateAction,
        decided: Callable[[Decision], None],
        keep_images: bool = False,
    ) -> None:
        self.camera_id, self.deadline_s = camera_id, deadline_s
        self.changed = Condition()
        """Notified when a part comes or is decided."""
        self.gates: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.late = 0
        """Answers that came for a part that was decided already."""
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)
        self._on_no_answer: GateAction = on_no_answer
        self._decided, self._keep_images = decided, keep_images
        self._open: dict[int, Part] = {}
        self._pictured: dict[int, Part] = {}
        """Those of them that still have their image, the oldest first."""
        self._parts = 0

    @property
    def parts(self) -> int:
        """How many there were; those that wait for a decision included."""
        return self._parts

    @property
    def waiting(self) -> int:
        """Parts without a decision."""
        return len(self._open)

    def admit(self, captured: Captured) -> Part:
        """A part has come; from now on it gets a decision."""
        with self.changed:
            image = captured.image if self._keep_images else None
            part = Part(self._parts, captured, captured.at + self.deadline_s, image)
            self._parts += 1
            self._open[part.sequence] = part
            if image is not None:
                self._pictured[part.sequence] = part
            if len(self._pictured) > MOST_IMAGES:
                self._pictured.pop(next(iter(self._pictured))).image = None
            self.changed.notify_all()
        return part

    def identity(self, part: Part) -> FrameIdentity:
        """What travels with the part's frame."""
        captured = part.captured
        return FrameIdentity(
            self.camera_id, captured.part_id, captured.trigger_id, part.sequence, capture_time=captured.capture_time
        )

    def is_open(self, part: Part) -> bool:
        """Whether the part has no decision yet."""
        return part.sequence in self._open

    def no_answer(self, part: Part, status: Status, reason: str) -> bool:
        """Decide by the rule for no answer; false where the part has a decision already."""
        return self._decide(part.sequence, status, Verdict.NO_ANSWER, self._on_no_answer, reason, None)

    def answer(self, reply: SegmentReply) -> bool:
        """Decide as the server says, and by the rule for no answer where it names no gate; false if it is too late."""
        sequence = -1 if reply.identity.sequence is None else reply.identity.sequence
        gate, status = reply.gate, reply.status
        if gate is None:  # whatever is not known of it
            gate, status = self._on_no_answer, "unknown"
        if self._decide(sequence, status, reply.verdict, gate, reply.reason, reply):
            return True
        with self.changed:
            self.late += 1
        return False

    def expire(self) -> None:
        """Decide the parts whose deadline has passed."""
        now = monotonic()
        with self.changed:
            overdue = [part for part in self._open.values() if part.deadline <= now]
        for part in overdue:
            self.no_answer(part, "timed_out", f"no answer within {self.deadline_s * 1000:g} ms of the capture")

    def abandon(self, reason: str) -> None:
        """Decide all parts that wait by the rule: nobody will answer them any more."""
        with self.changed:
            waiting = list(self._open.values())
        for part in waiting:
            self.no_answer(part, "unreachable", reason)

    def next_deadline(self) -> float | None:
        """Of the parts without a decision, by the monotonic clock."""
        with self.changed:
            return min((part.deadline for part in self._open.values()), default=None)

    def _decide(
        self,
        sequence: int,
        status: Status,
        verdict: Verdict,
        gate: GateAction,
        reason: str,
        reply: SegmentReply | None,
    ) -> bool:
        with self.changed:  # told of inside, so that the order is the same for everybody
            part = self._open.pop(sequence, None)
            if part is None:
                return False
            self._pictured.pop(sequence, None)
            captured = part.captured
            latency_ms = (monotonic() - captured.at) * 1000
            self.gates[gate] += 1
            self.statuses[status] += 1
            self.latencies_ms.append(latency_ms)
            self._decided(
                Decision(
                    self.camera_id,
                    sequence,
                    captured.part_id,
                    captured.trigger_id,
                    captured.capture_time,
                    status,
                    verdict,
                    gate,
                    reason,
                    latency_ms,
                    reply,
                    part.image,
                )
            )
            self.changed.notify_all()
        return True
