"""The tiles of a web on their way through the engines, in the order in which they are stitched."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import perf_counter

import numpy as np

from agvas_runtime.errors import InputError
from agvas_runtime.frames import grey_of
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.access import Bucket
from agvas_runtime.server.answers import free_unread
from agvas_runtime.server.engine.arena import BYTES_A_PIXEL, ArenaFull
from agvas_runtime.server.lanes import Fate, Lane, NoResult, Ticket
from agvas_runtime.server.requests import Intake
from agvas_runtime.server.scan_plan import ScanPlan
from agvas_runtime.server.scan_rows import SectionEnd
from agvas_runtime.tiling import Band

MOST_TILES, MOST_SHARE = 8, 0.25
"""Tiles of a stream that engines have or that wait for them, and their share of the memory, unless it is one alone."""
ROOM_S = 0.1
"""How long a tile waits for room in memory at a time."""


@dataclass(eq=False)
class Tile:
    """A tile that an engine has, or that waits for one."""

    band: Band
    columns: slice
    arrived: float
    """When its band was whole, by the performance counter."""
    ticket: Ticket | None = None
    failure: Exception | None = None
    """Why there is no ticket."""

    def done(self) -> bool:
        """Whether it is answered."""
        return self.ticket is None or self.ticket.outcome.done()


class TileLine:
    """What is to be stitched: tiles, behind them their band, behind its bands the end of a section.

    Args:
        plan: of the stream.
        intake: puts tiles into shared memory.
        lane: their queue, with room for MOST_TILES.
        columns: of a band's tiles.
        take: the next band or end of a section; None while there is none.
        notify: called whenever a tile is answered.
        bucket: bounds the tiles a second, if at all.
    """

    def __init__(
        self,
        plan: ScanPlan,
        intake: Intake,
        lane: Lane,
        columns: list[slice],
        take: Callable[[], Band | SectionEnd | None],
        notify: Callable[[], None],
        bucket: Bucket | None,
    ) -> None:
        self._plan, self._intake, self._lane, self._columns = plan, intake, lane, columns
        self._take, self._notify, self._bucket = take, notify, bucket
        self._tiles: deque[Tile] = deque()
        """Of the last band that was taken, those that no engine was given yet."""
        self._line: deque[Tile | Band | SectionEnd] = deque()
        self._full = self._over = False
        """There was no room for a tile; nothing follows what is in line."""
        self.not_before = -inf
        """The stream's rate allows no tile before this time, by the performance counter."""
        tile_bytes = plan.tiling.height * min(plan.tiling.width, plan.width) * BYTES_A_PIXEL
        self._most = max(1, min(MOST_TILES, int(MOST_SHARE * intake.memory_bytes) // tile_bytes))

    def __len__(self) -> int:
        return len(self._line)

    @property
    def over(self) -> bool:
        """Whether everything was stitched and nothing follows."""
        return self._over and not self._line

    @property
    def first_is_done(self) -> bool:
        """Whether the first thing in line can be stitched."""
        return bool(self._line) and (not isinstance(self._line[0], Tile) or self._line[0].done())

    def wants(self, ready: bool) -> bool:
        """Whether `submit` would do something; `ready` says whether `take` has something."""
        return (ready or bool(self._tiles)) and self._may_submit()

    def pop(self) -> Tile | Band | SectionEnd:
        """The first thing in line."""
        self._full = False
        return self._line.popleft()

    def submit(self, stopping: str) -> None:
        """Give the engines what they may have; where the server is `stopping`, none, for this reason."""
        while self._may_submit() and (tile := self._next_tile()):
            try:
                tile.ticket = self._ticket(tile, stopping)
            except _Later:
                return
            except (InputError, NoResult) as error:
                tile.failure = error
            self._line.append(self._tiles.popleft())
            if not self._tiles:
                self._line.append(tile.band)
            if tile.ticket is not None:
                tile.ticket.outcome.add_done_callback(lambda _: self._notify())
                self._lane.offer(tile.ticket)

    def abandon(self) -> None:
        """Nobody takes what is still in line: free what it holds."""
        for item in self._line:
            if isinstance(item, Tile) and item.ticket is not None:
                item.ticket.cancel()
                item.ticket.outcome.add_done_callback(free_unread)

    def _may_submit(self) -> bool:
        held = sum(isinstance(each, Tile) for each in self._line)
        return held < self._most and not (self._full and held) and perf_counter() >= self.not_before

    def _next_tile(self) -> Tile | None:
        """The next one, which stays where it is. Ends of sections go into the line."""
        while not self._tiles and not self._over:
            found = self._take()
            if found is None:
                return None
            if isinstance(found, SectionEnd):
                self._line.append(found)
                self._over = found.next_row is None
            else:
                self._tiles.extend(Tile(found, columns, perf_counter()) for columns in self._columns)
        return self._tiles[0] if self._tiles else None

    def _ticket(self, tile: Tile, stopping: str) -> Ticket:
        """Put a tile into shared memory. Raises InputError, NoResult, _Later."""
        if stopping:
            raise NoResult(Fate.REFUSED, stopping)
        if self._bucket is not None and not self._bucket.take():
            self.not_before = perf_counter() + self._bucket.wait_s()
            raise _Later
        part = tile.band.pixels[:, tile.columns]
        grey = grey_of(part)
        pixels = np.ascontiguousarray(part if grey is None else grey)
        pixel_format = pb.PIXEL_FORMAT_RGB8 if grey is None else pb.PIXEL_FORMAT_MONO8
        height, width = pixels.shape[:2]
        frame = pb.Frame(raw=pb.RawImage(pixel_format=pixel_format, width=width, height=height))
        wait_s = 0.0 if self._line else ROOM_S  # what is in line holds memory that will be free
        try:
            block, _ = self._intake.place(frame, pixels.data.cast("B"), self._plan.settings, wait_s)
        except ArenaFull:
            self._full = True
            if self._bucket is not None:
                self._bucket.give_back()
            raise _Later from None
        self._full = False
        return Ticket(block, self._plan.settings.task, arrived=tile.arrived)


class _Later(Exception):
    """Not now."""
