"""One line-scan camera's `Scan` stream: rows are read in one thread; in another they are cut into tiles, engines get
these, and their answers are stitched. That thread is the call's own: who takes no event is not worked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from math import inf
from threading import Condition, Thread
from time import perf_counter

import numpy as np

from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.access import Bucket
from agvas_runtime.server.answers import failure_message, result_message
from agvas_runtime.server.lanes import Answered, Fate, Lane, NoResult
from agvas_runtime.server.requests import Intake
from agvas_runtime.server.scan_plan import Message, ScanPlan, encoder_count_of, height_of, rows_of
from agvas_runtime.server.scan_replies import Encoders, Events, Missing
from agvas_runtime.server.scan_rows import SectionEnd, WaitingRows
from agvas_runtime.server.scan_tiles import Tile, TileLine
from agvas_runtime.tiling import Band
from agvas_runtime.web import WebStitcher
from agvas_runtime.web_regions import WebRegions

TOO_FAST = "rows came faster than they are inspected"

log = logging.getLogger("agvas.scan")


class ScanSession:
    """A stream while it is open.

    Args:
        plan: how it was opened.
        intake: puts its tiles into shared memory.
        lane: their queue, with room for MOST_TILES.
        serving: "" while an engine is ready, else why none is.
        answered: told of the answer to every tile.
        max_pixels: of a block of rows.
        bucket: bounds the tiles a second, if at all.
    """

    def __init__(
        self,
        plan: ScanPlan,
        intake: Intake,
        lane: Lane,
        serving: Callable[[], str],
        answered: Callable[[pb.SegmentResponse], None],
        max_pixels: int,
        bucket: Bucket | None = None,
    ) -> None:
        self._plan, self._lane, self._max_pixels = plan, lane, max_pixels
        self._serving, self._answered = serving, answered
        self._encoders, self._events, recipe = Encoders(), Events(plan), plan.settings.task.recipe
        self._regions = WebRegions(plan.width, recipe.min_area_px, recipe.min_score, plan.longest, self._encoders.of)
        self._stitcher = WebStitcher(plan.width, plan.tiling, self._regions)
        self._changed = Condition()
        self._rows = WaitingRows(plan.tiling)
        self._in_hand: Message | None = None
        """Was read, and is not accepted yet."""
        self._gone = False
        self._stopping = ""
        self._missing: list[Missing] = []
        """Tiles of the first band in line that have no result."""
        self._line = TileLine(plan, intake, lane, self._stitcher.columns, self._take, self._notify, bucket)

    def leave(self) -> None:
        """The caller is gone: nobody takes events any more."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._lane.close()

    def stop(self, reason: str) -> None:
        """Read no further block, settle what engines have, skip the rest, then end with UNAVAILABLE and this reason."""
        with self._changed:
            self._stopping = reason
            self._rows.drop(pb.FRAME_STATUS_REFUSED, reason)
            if self._in_hand is not None:
                self._rows.skip(height_of(self._in_hand), pb.FRAME_STATUS_REFUSED, reason)
            self._rows.finish()
            self._line.not_before = -inf
            self._changed.notify_all()

    def events(self, messages: Iterator[Message]) -> Generator[pb.ScanResponse, None, None]:
        """All events of the stream; a heartbeat comes at once.

        Raises NoResult at the end where the server stops, Cancelled where the caller is gone.
        """
        Thread(target=self._read, args=(messages,), name="rows", daemon=True).start()
        try:
            yield self._heartbeat()
            beat = perf_counter() + self._plan.heartbeat_s
            while not self._gone:
                self._line.submit(self._stopping)
                if self._line.first_is_done:
                    yield from self._settle(self._line.pop())
                elif self._line.over:
                    yield self._events.summary(self._rows.received, self._regions.ignored)
                    if self._stopping:
                        raise NoResult(Fate.REFUSED, self._stopping)
                    return
                else:
                    self._wait(beat)
                if perf_counter() >= beat:
                    yield self._heartbeat()
                    beat = perf_counter() + self._plan.heartbeat_s
            raise Cancelled
        finally:
            self.leave()
            self._line.abandon()

    def _heartbeat(self) -> pb.ScanResponse:
        reason = self._serving()
        waiting = max(self._rows.received - self._events.settled, 0)
        return pb.ScanResponse(heartbeat=pb.Heartbeat(serving=not reason, waiting=waiting, reason=reason))

    # Reading

    def _read(self, messages: Iterable[Message]) -> None:
        """Accept blocks until the caller has no more, goes away, or the server stops."""
        try:
            for message in messages:
                if not self._room(message):
                    return
                self._accept(message)
        except Exception as error:  # so gRPC ends the iterator of a call that is cancelled
            if not self._gone:
                log.debug("the stream of %s broke off: %s", self._plan.camera_id, error)
        finally:
            with self._changed:
                self._rows.finish()
                self._changed.notify_all()

    def _room(self, message: Message) -> bool:
        """Wait until the rows of a message may wait; whether they are wanted at all."""
        with self._changed:
            self._in_hand = message
            self._changed.wait_for(lambda: self._may_grow() or self._gone or self._stopping)
            return not (self._gone or self._stopping)

    def _may_grow(self) -> bool:
        full = self._rows.waiting >= self._plan.queue_rows and self._plan.policy == "block"
        return not (full or self._rows.crowded)

    def _accept(self, message: Message) -> None:
        """Put a block's rows to those that wait, or skip them."""
        rows, wrong, status = np.empty((0, 0, 3), np.uint8), "", pb.FRAME_STATUS_INVALID
        try:
            rows = rows_of(message, self._plan, self._max_pixels)
        except InputError as error:
            wrong = str(error)
        except Exception as error:  # no memory, for one
            log.exception("a block of %s could not be read", self._plan.camera_id)
            wrong, status = type(error).__name__, pb.FRAME_STATUS_DROPPED
        with self._changed:
            if self._stopping:  # it was skipped then
                return
            self._in_hand = None
            if wrong:
                self._rows.skip(height_of(message), status, wrong)
            elif len(rows):
                if self._rows.waiting >= self._plan.queue_rows:  # with the policy to block there was room
                    self._rows.drop(pb.FRAME_STATUS_DROPPED, TOO_FAST)
                self._encoders.note(self._rows.received, encoder_count_of(message))
                self._rows.add(rows)
            self._changed.notify_all()

    def _take(self) -> Band | SectionEnd | None:
        with self._changed:
            found = self._rows.take()
            self._changed.notify_all()  # there may be room for rows
            return found

    def _wait(self, beat: float) -> None:
        """Until there is something to do, at most until that time."""
        began, idle = perf_counter(), not self._line
        until = min(beat, self._line.not_before) if self._line.not_before > began else beat

        def something_to_do() -> bool:
            return self._gone or self._line.first_is_done or self._line.wants(self._rows.ready)

        with self._changed:
            self._changed.wait_for(something_to_do, max(until - began, 0))
        if idle:
            self._events.idle_s += perf_counter() - began

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    # Stitching

    def _settle(self, item: Tile | Band | SectionEnd) -> Iterator[pb.ScanResponse]:
        """The events of what was first in line."""
        if isinstance(item, Tile):
            self._settle_tile(item)
        elif isinstance(item, Band):
            yield from self._settle_band(item)
        else:
            yield from self._settle_section(item)

    def _settle_tile(self, tile: Tile) -> None:
        try:
            reply = self._stitched(tile)
        except Exception as error:
            try:
                reply = failure_message(error, self._on_no_answer, tile.arrived)
            except Exception as unforeseen:
                log.exception("a tile of %s could not be stitched", self._plan.camera_id)
                told = EngineError(type(unforeseen).__name__)
                reply = failure_message(told, self._on_no_answer, tile.arrived)
        self._events.tiles += 1
        reply.identity.camera_id, reply.recipe_name = self._plan.camera_id, self._plan.settings.recipe_name
        self._answered(reply)
        if reply.verdict == pb.VERDICT_NO_ANSWER:
            self._missing.append((tile.columns, reply.status, reply.reason))

    def _stitched(self, tile: Tile) -> pb.SegmentResponse:
        """The answer to a tile, without pictures; its mask and map go to the others."""
        if tile.failure is not None:
            raise tile.failure
        assert tile.ticket is not None
        answered: Answered = tile.ticket.outcome.result()
        try:
            reply = result_message(answered, self._plan.settings, tile.arrived, 0.0)
            self._events.model.CopyFrom(reply.model)
            if reply.verdict != pb.VERDICT_NO_ANSWER:
                self._stitcher.tile(tile.band, tile.columns, answered.block.mask, answered.block.probability)
            return reply
        finally:
            answered.block.release()

    def _settle_band(self, band: Band) -> Iterator[pb.ScanResponse]:
        missing, self._missing = self._missing, []
        rows = len(band.pixels)
        yield from self._events.missing(band.first_row, rows, missing, len(self._stitcher.columns))
        for defect in self._stitcher.end_band(band):
            yield self._events.defect(defect)
        self._events.inspected(0 if missing else band.fresh)
        yield self._progress(band.first_row + band.settled - 1)  # a defect that touches the last row may go on

    def _settle_section(self, section: SectionEnd) -> Iterator[pb.ScanResponse]:
        for defect in self._stitcher.end_section(section.next_row):
            yield self._events.defect(defect)
        for gap in section.gaps:
            yield self._events.skipped(gap.first_row, gap.rows, gap.status, gap.reason)
        yield self._progress(section.row + sum(gap.rows for gap in section.gaps))

    def _progress(self, settled: int) -> pb.ScanResponse:
        self._encoders.forget(settled)
        with self._changed:
            return self._events.progress(self._rows.received, self._rows.waiting, settled)

    @property
    def _on_no_answer(self) -> str:
        return str(self._plan.settings.task.recipe.on_no_answer)
