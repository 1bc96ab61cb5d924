"""From the tiles of a web to its defects: puts `tiling.py`, where tiles lie, and `web_regions.py`, what is connected,
together. Whoever segments the tiles, here and now or in a server's engine, brings their masks and scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agvas_runtime.tiling import Band, Bands, Fusion, Mask, Pixels, Scores, Segment, Tiling
from agvas_runtime.web_regions import WebDefect, WebRegions


class WebStitcher:
    """From the tiles' answers to the web's defects. Bands come one after the other, each one's tiles in any order."""

    def __init__(self, width: int, tiling: Tiling, regions: WebRegions) -> None:
        self.columns = tiling.columns(width)
        self._regions, self._fusion = regions, Fusion(width)

    def tile(self, band: Band, columns: slice, mask: Mask, score: Scores) -> None:
        """A tile's answer, [h, w] each. A tile without any leaves its pixels to its neighbours."""
        self._fusion.add(band.first_row, columns, mask, score)

    def end_band(self, band: Band) -> list[WebDefect]:
        """Every tile of it has its answer, or will have none: the defects that are complete now."""
        self._fusion.cover(band.first_row + len(band.pixels))
        return self._regions.add(*self._fusion.settle(band.first_row + band.settled))

    def end_section(self, next_row: int | None) -> list[WebDefect]:
        """No band of the section follows: the remaining defects. The next section begins at this row; None: no more."""
        defects = self._regions.add(*self._fusion.settle())
        defects += self._regions.end(cut=next_row is not None)
        if next_row is not None:
            self._fusion.skip(next_row)
        return defects


def find_defects(
    blocks: Iterable[Pixels], segment: Segment, tiling: Tiling, width: int, regions: WebRegions | None = None
) -> Iterator[WebDefect]:
    """The defects of a web that comes in blocks of rows, uint8 [n, W, 3], segmented here and now, tile by tile."""
    section, stitcher = Bands(tiling), WebStitcher(width, tiling, regions or WebRegions(width))

    def defects(band: Band) -> list[WebDefect]:
        for columns in stitcher.columns:
            stitcher.tile(band, columns, *segment(band.pixels[:, columns]))
        return stitcher.end_band(band)

    for rows in blocks:
        section.add(rows)
        while band := section.take():
            yield from defects(band)
    if band := section.rest():
        yield from defects(band)
    yield from stitcher.end_section(None)
