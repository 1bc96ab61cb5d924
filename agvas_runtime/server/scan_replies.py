"""The events of a line-scan camera's stream as messages, and the figures that they tell."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from threading import Lock
from time import perf_counter

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.replies import GATES
from agvas_runtime.server.scan_plan import ScanPlan
from agvas_runtime.web_regions import WebDefect

BANDS_OF_RATE = 16
"""Bands over which the rate is told."""
MOST_UNSEEN = 256
"""Skipped tiles that are remembered, for defects that touch them."""

Columns = slice
Missing = tuple[Columns, "pb.FrameStatus", str]
"""A tile without a result: where it is, its status and the reason."""


class Encoders:
    """Encoder counts of the rows that are not settled yet. Safe to use from several threads."""

    def __init__(self) -> None:
        self._first_rows: list[int] = []
        self._counts: list[int | None] = []
        self._lock = Lock()

    def note(self, first_row: int, count: int | None) -> None:
        """A block that begins at this row has this count, or none."""
        with self._lock:
            if count is not None or (self._counts and self._counts[-1] is not None):
                self._first_rows.append(first_row)
                self._counts.append(count)

    def of(self, row: int) -> int | None:
        """The count of the row's block."""
        with self._lock:
            place = bisect_right(self._first_rows, row) - 1
            return self._counts[place] if place >= 0 else None

    def forget(self, row: int) -> None:
        """Nobody asks for rows before this one any more."""
        with self._lock:
            old = max(bisect_right(self._first_rows, row) - 1, 0)
            del self._first_rows[:old], self._counts[:old]


class Events:
    """Makes the messages and counts what they say."""

    def __init__(self, plan: ScanPlan) -> None:
        self._plan = plan
        self._gate = GATES[str(plan.settings.task.recipe.on_no_answer)]
        self.settled = self.tiles = 0
        self.idle_s = 0.0
        """Time without any rows to inspect."""
        self.model = pb.ModelIdentity()
        self._skipped = self._skipped_to = self._defects = 0
        self._unseen: deque[tuple[int, int, int, int]] = deque(maxlen=MOST_UNSEEN)
        self._bands: deque[tuple[int, float]] = deque(maxlen=BANDS_OF_RATE)
        self._since, self._idle_before = perf_counter(), 0.0

    def inspected(self, rows: int) -> None:
        """So many further rows were inspected; 0 where an engine failed, whose time says nothing."""
        now = perf_counter()
        if rows:
            self._bands.append((rows, now - self._since - (self.idle_s - self._idle_before)))
        self._since, self._idle_before = now, self.idle_s

    @property
    def rows_per_s(self) -> float:
        """What is sustained: rows a second of the time in which there were rows."""
        busy_s = sum(seconds for _, seconds in self._bands)
        return sum(rows for rows, _ in self._bands) / busy_s if busy_s > 0 else 0.0

    def skipped(
        self, first_row: int, rows: int, status: pb.FrameStatus, reason: str, columns: Columns | None = None
    ) -> pb.ScanResponse:
        """Rows that were not inspected, over these columns or the whole width."""
        x0, x1 = (0, self._plan.width) if columns is None else (columns.start, columns.stop)
        self._skipped += max(first_row + rows - max(first_row, self._skipped_to), 0)
        self._skipped_to = max(self._skipped_to, first_row + rows)
        skipped = pb.ScanSkipped(
            first_row=first_row, rows=rows, x0=x0, x1=x1, status=status, reason=reason, gate=self._gate
        )
        return pb.ScanResponse(skipped=skipped)

    def missing(self, first_row: int, rows: int, tiles: list[Missing], of: int) -> list[pb.ScanResponse]:
        """The tiles of a band of so many that have no result."""
        self._unseen.extend((first_row, first_row + rows, columns.start, columns.stop) for columns, *_ in tiles)
        if len(tiles) == of and len({(status, reason) for _, status, reason in tiles}) == 1:
            tiles = [(slice(0, self._plan.width), *tiles[0][1:])]
        return [self.skipped(first_row, rows, status, reason, columns) for columns, status, reason in tiles]

    def defect(self, found: WebDefect) -> pb.ScanResponse:
        """A defect."""
        unseen = [
            (top, bottom)
            for top, bottom, left, right in self._unseen
            if top <= found.last_row + 1 and found.first_row <= bottom and left <= found.x1 and found.x0 <= right
        ]
        defect = pb.ScanDefect(
            index=self._defects,
            first_row=found.first_row,
            last_row=found.last_row,
            x0=found.x0,
            x1=found.x1,
            centroid_x=found.centroid_x,
            centroid_row=found.centroid_row,
            area_px=found.area_px,
            mean_score=found.mean_score,
            max_score=found.max_score,
            begins_cut=found.begins_cut or any(top < found.first_row for top, _ in unseen),
            ends_cut=found.ends_cut or any(bottom > found.last_row + 1 for _, bottom in unseen),
            encoder_count=found.encoder_count,
        )
        if self._plan.mm is not None:
            across, along = self._plan.mm
            defect.mm.CopyFrom(
                pb.ScanDefectMm(
                    x0=found.x0 * across,
                    x1=found.x1 * across,
                    centroid_x=(found.centroid_x + 0.5) * across,
                    y0=found.first_row * along,
                    y1=(found.last_row + 1) * along,
                    centroid_y=(found.centroid_row + 0.5) * along,
                    area=found.area_px * across * along,
                )
            )
        self._defects += 1
        return pb.ScanResponse(defect=defect)

    def progress(self, received: int, waiting: int, settled: int) -> pb.ScanResponse:
        """Rows before this one are settled."""
        self.settled = max(self.settled, settled)
        progress = pb.ScanProgress(
            rows_received=received,
            rows_settled=self.settled,
            rows_skipped=self._skipped,
            rows_per_s=self.rows_per_s,
            rows_waiting=waiting,
        )
        return pb.ScanResponse(progress=progress)

    def summary(self, received: int, ignored: int) -> pb.ScanResponse:
        """The end of the web."""
        summary = pb.ScanSummary(
            rows=received,
            rows_skipped=self._skipped,
            defects=self._defects,
            ignored=ignored,
            tiles=self.tiles,
            rows_per_s=self.rows_per_s,
            model=self.model,
            recipe_name=self._plan.settings.recipe_name,
        )
        return pb.ScanResponse(summary=summary)
