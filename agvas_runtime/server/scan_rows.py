"""The rows of a web that no engine has yet, and what became of those that none will have. Its user holds a lock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.tiling import Band, Bands, Pixels, Tiling

MOST_SECTIONS = 64
"""Sections that may wait; each ends at rows that are skipped."""


@dataclass(frozen=True)
class Gap:
    """Rows that are not inspected."""

    first_row: int
    rows: int
    """0 for a message that stood for nobody knows how many."""
    status: pb.FrameStatus
    reason: str


@dataclass(frozen=True)
class SectionEnd:
    """Behind the last band of a section."""

    row: int
    """The one behind the section's last."""
    gaps: tuple[Gap, ...]
    """What follows it, in order."""
    next_row: int | None
    """The first one of the next section; None where there is none."""


@dataclass
class _Section:
    bands: Bands
    gaps: list[Gap] = field(default_factory=list)
    ended: bool = False


class WaitingRows:
    """Rows and gaps in, bands and ends of sections out, in their order."""

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._sections = deque([_Section(Bands(tiling))])
        self.received = self.waiting = 0
        """Rows so far, those of gaps included; rows that are in no band yet."""

    @property
    def crowded(self) -> bool:
        """Whether too many sections wait."""
        return len(self._sections) > MOST_SECTIONS

    @property
    def ready(self) -> bool:
        """Whether `take` has something."""
        return bool(self._sections) and (self._sections[0].ended or self._sections[0].bands.ready)

    def add(self, rows: Pixels) -> None:
        """The next rows, uint8 [n, W, 3]."""
        self._sections[-1].bands.add(rows)
        self.received += len(rows)
        self.waiting += len(rows)

    def skip(self, rows: int, status: pb.FrameStatus, reason: str) -> None:
        """So many rows came that are not inspected."""
        self._sections[-1].gaps.append(Gap(self.received, rows, status, reason))
        self.received += rows
        self._begin()

    def drop(self, status: pb.FrameStatus, reason: str) -> None:
        """Skip all rows that are in no band yet; the rows behind them are a section of their own."""
        if not self._sections:
            return
        for section in self._sections:
            if dropped := section.bands.drop():
                section.gaps.insert(0, Gap(section.bands.end_row, dropped, status, reason))
        self.waiting = 0
        self._begin()
        self._join()

    def finish(self) -> None:
        """No rows follow."""
        if self._sections:
            self._sections[-1].ended = True

    def take(self) -> Band | SectionEnd | None:
        """What comes next; None while it cannot be told."""
        if not self.ready:
            return None
        section = self._sections[0]
        band = section.bands.take() or (section.bands.rest() if section.ended else None)
        if band is not None:
            self.waiting -= band.fresh
            return band
        self._sections.popleft()
        next_row = self._sections[0].bands.end_row if self._sections else None
        return SectionEnd(section.bands.end_row, tuple(section.gaps), next_row)

    def _join(self) -> None:
        """Make gaps that follow each other one, so that a long time without an engine takes no memory."""
        *old, last = self._sections
        joined = old[:1]
        for section in old[1:]:
            if section.bands.begun:
                joined.append(section)
            else:
                joined[-1].gaps += section.gaps
        for section in joined:
            gaps: list[Gap] = []
            for gap in section.gaps:
                if gaps and (gaps[-1].status, gaps[-1].reason) == (gap.status, gap.reason):
                    gap = replace(gaps[-1], rows=gaps.pop().rows + gap.rows)
                gaps.append(gap)
            section.gaps = gaps
        self._sections = deque([*joined, last])

    def _begin(self) -> None:
        self._sections[-1].ended = True
        self._sections.append(_Section(Bands(self._tiling, self.received)))
