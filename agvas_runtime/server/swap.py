"""The shadow run that another bundle must pass before it serves.

Its engine answers frames of the line a second time, from copies of its own, and nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean, median
from threading import Condition, Thread
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agvas_runtime.console import one_line
from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.proto.agvas.v1.admin_pb2 import Comparison, SwapRequest
from agvas_runtime.server.engine.arena import Arena, ArenaFull, Block
from agvas_runtime.server.engine.process import EngineProcess

if TYPE_CHECKING:
    from agvas_runtime.server.ticket import Answered, Ticket

MOST_WAITING = 2
"""Frames that may wait for the candidate; further ones of the line are not compared. Each keeps its block."""


class Limits(BaseModel):
    """How far a candidate may differ, by the names of `SwapRequest`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shadow_frames: int = Field(default=0, ge=0, le=100_000)
    """0 compares nothing."""
    shadow_timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    max_disagreement: float = Field(default=0.01, ge=0, le=1)
    """Largest share of frames with another verdict."""
    min_iou: float = Field(default=0.9, ge=0, le=1)
    """Smallest mean overlap of the masks."""
    max_slowdown: float = Field(default=1.5, gt=0)
    """Largest ratio of the median times."""

    @classmethod
    def of(cls, request: SwapRequest) -> Limits:
        """What a request asks for; raises InputError naming the field."""
        optional = ("shadow_timeout_s", "max_disagreement", "min_iou", "max_slowdown")
        said = {name: getattr(request, name) for name in optional if request.HasField(name)}
        try:
            return cls(shadow_frames=request.shadow_frames, **said)
        except ValidationError as error:
            first = error.errors()[0]
            rule = first["msg"][:1].lower() + first["msg"][1:]
            raise InputError(f"{first['loc'][0]}: found {first['input']}, {rule}") from None


@dataclass
class _Batch:
    """Frames that the old engine segmented together: their time is that of all."""

    ms: float
    frames: int = 0


@dataclass(frozen=True)
class _Seen:
    """A frame that the old engine has answered; its block is kept until it is compared."""

    ticket: Ticket
    answered: Answered
    batch: _Batch


class Shadow:
    """Compares a candidate with the engine in service, frame by frame, until so many are compared or it dies.

    Args:
        candidate: ready, and used by nobody else meanwhile.
        arena: where its frames are copied to; a frame without room for a copy is not compared.
        frames: how many to compare.
    """

    def __init__(self, candidate: EngineProcess, arena: Arena, frames: int) -> None:
        self._candidate, self._arena, self._wanted = candidate, arena, frames
        self._waiting: deque[_Seen] = deque()
        self._batches: dict[int, _Batch] = {}
        self._ious: list[float] = []
        self._same = self._errors = self._unplaced = 0
        self._alone_ms: list[float] = []
        """Of the old engine, for frames that it segmented alone and in one go, as the candidate does."""
        self._usual_ms = 0.0
        """The same as it was measured at its start."""
        self._new_ms: list[float] = []
        self._first_error = self._died = ""
        self._stopped = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def observe(self, ticket: Ticket, answered: Answered) -> None:
        """Take a frame that the old engine has answered, before its caller gets the answer. Never waits."""
        ms, pid = answered.result.total_ms, answered.facts.pid
        with self._changed:
            if self._batches.get(pid) is None or self._batches[pid].ms != ms:
                self._batches[pid] = _Batch(ms)
            self._batches[pid].frames += 1
            if self._over() or len(self._waiting) >= MOST_WAITING:
                return
            answered.block.retain()
            self._waiting.append(_Seen(ticket, answered, self._batches[pid]))
            self._changed.notify_all()

    def wait(self, frames: int, timeout_s: float) -> bool:
        """Wait until so many frames are compared, or there is nothing more to wait for: then true."""
        with self._changed:
            self._changed.wait_for(lambda: self._over() or self._compared() >= frames, timeout_s)
            return self._over()

    def comparison(self) -> Comparison:
        """The figures so far."""
        with self._changed:  # the line may be waiting for it
            ious, alone_ms, new_ms = self._ious.copy(), self._alone_ms.copy(), self._new_ms.copy()
            figures = Comparison(same_verdict=self._same, errors=self._errors, first_error=self._first_error)
        figures.frames = len(ious)
        if ious:
            figures.mean_iou, figures.min_iou = fmean(ious), min(ious)
        if new_ms:
            figures.new_p50_ms = median(new_ms)
            figures.old_p50_ms = median(alone_ms) if alone_ms else self._usual_ms
        return figures

    def failed(self, limits: Limits) -> str | None:
        """Why the candidate must not serve, in one line; None where it may."""
        figures = self.comparison()
        if self._died:
            return f"its engine failed after {figures.frames} frames: {self._died}"
        compared = figures.frames + figures.errors
        if figures.errors:
            return (
                f"{figures.errors} of {compared} frames failed on it, expected none; the first: {figures.first_error}"
            )
        if compared < self._wanted:
            found = f"{compared} of {self._wanted} frames"
            if not self._unplaced:
                return f"the line brought {found} within {limits.shadow_timeout_s:g} s"
            room = f"{self._unplaced} that the line brought had no room for a copy in max_memory_mb"
            return f"{found} were compared within {limits.shadow_timeout_s:g} s: {room}"
        return differs(figures, limits) if compared else None

    def stop(self) -> None:
        """Compare no further frame; what is under way is given up."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, and give every block back. The candidate is free then."""
        self.stop()
        self._thread.join()
        with self._changed:
            while self._waiting:
                self._waiting.popleft().answered.block.release()

    def _compared(self) -> int:
        return len(self._ious) + self._errors

    def _over(self) -> bool:
        return self._stopped or bool(self._died) or self._compared() >= self._wanted

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over())
                if self._over():
                    return
                seen = self._waiting.popleft()
            try:
                self._compare(seen)
            finally:
                seen.answered.block.release()
                with self._changed:
                    self._changed.notify_all()

    def _compare(self, seen: _Seen) -> None:
        """Have the candidate answer a frame, and note how the answers differ."""
        try:
            copy = self._arena.place(seen.answered.block.image)
        except (ArenaFull, InputError):  # no room for a copy now, or ever
            with self._changed:
                self._unplaced += 1
            return
        try:
            self._note(seen, copy)
        except Cancelled:
            return
        except (EngineError, InputError) as error:
            with self._changed:
                self._errors += 1
                self._first_error = self._first_error or one_line(str(error))
        except Exception as error:  # EngineDied, and whatever else ends the comparison
            with self._changed:
                self._died = one_line(str(error)) or type(error).__name__
        finally:
            copy.release()

    def _note(self, seen: _Seen, copy: Block) -> None:
        (new,) = self._candidate.segment([copy], [seen.ticket.task], lambda: self._stopped)
        old = seen.answered.result
        iou = overlap(seen.answered.block.mask, copy.mask)
        with self._changed:
            self._ious.append(iou)
            self._same += old.verdict is new.verdict
            if not seen.ticket.task.long:
                self._new_ms.append(new.total_ms)
                self._usual_ms = seen.answered.facts.ms_per_frame.get(1, 0.0)
                if seen.batch.frames == 1:
                    self._alone_ms.append(seen.batch.ms)


def differs(figures: Comparison, limits: Limits) -> str | None:
    """Which limit the figures exceed, in one line with both numbers; None where they exceed none."""
    other = figures.frames - figures.same_verdict
    if other > limits.max_disagreement * figures.frames:
        share = f"{other} of {figures.frames} frames have another verdict ({other / figures.frames:.1%})"
        return f"{share}, expected at most {limits.max_disagreement:.1%}"
    if figures.mean_iou < limits.min_iou:
        return f"the masks overlap by {figures.mean_iou:.3f} on average, expected at least {limits.min_iou:g}"
    if figures.old_p50_ms and figures.new_p50_ms > limits.max_slowdown * figures.old_p50_ms:
        times = f"a frame takes {figures.new_p50_ms:.1f} ms, before {figures.old_p50_ms:.1f} ms"
        return f"{times}, expected at most {limits.max_slowdown:g} times that"
    return None


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks, bool [H, W]; 1 where both are empty."""
    either = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / either) if either else 1.0
