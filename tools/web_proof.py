"""Is every defect of a long web reported once, where it is? `make proof-web`; in the tests a short form.

A web with defects planted across every kind of border goes through the stitching in blocks of many heights, with a
threshold in the model's place, so that it is known what is right: what was planted, and what the same web gives when it
is segmented as one image. Memory is looked at on the way. Then a real server inspects another web, as fast as it can.
Writes benchmarks/full/<date>-<commit>-web.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agvas_runtime import console
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.regions import Region, find_regions
from agvas_runtime.scan_wire import ScanDefect, ScanProgress, ScanSkipped, ScanSummary, WebSettings
from agvas_runtime.tiling import Mask, Pixels, Scores, Tiling
from agvas_runtime.web import find_defects
from agvas_runtime.web_regions import LONGEST_DEFECT, WebDefect, WebRegions

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from tools.resident import resident_bytes  # noqa: E402

GROUND, NOISE, DEFECT, THRESHOLD = 90, 30, 200, 150
ROWS, WIDTH, HEIGHTS = 100_000, 1300, (1, 2, 7, 64, 447, 448, 449, 512, 1000, 5000)
SERVED: tuple[tuple[int, int, int, Literal["block", "latest"]], ...] = (
    (100_000, 2048, 512, "block"),
    (100_000, 1024, 1, "block"),
    (100_000, 2048, 512, "latest"),
)
MOST_OFF_PX, MOST_GROWTH = 2.0, 1.1
KINDS = (
    "inside a tile",
    "across the columns of two tiles",
    "across the rows of two bands",
    "across the corners of four tiles",
    "larger than the overlap",
    "over several tiles and bands",
    "two that become one further down",
    "one that becomes two further down",
    "a ring",
    "a diagonal of single pixels",
    "at the web's left edge",
    "at the web's right edge",
    "across the borders of blocks",
    "a single pixel",
)


@dataclass(frozen=True)
class Planted:
    """A defect: its pixels, bool [h, w], and where the first one lies."""

    kind: str
    row: int
    column: int
    shape: NDArray[np.bool_]


@dataclass(frozen=True)
class Web:
    """A web that is made row by row, always the same."""

    rows: int
    width: int
    planted: tuple[Planted, ...]

    def pixels(self, first: int, last: int) -> Pixels:
        """Rows from the first to before the last, uint8 [n, W, 3]."""
        texture = np.random.default_rng(7).integers(0, NOISE, (997, self.width), dtype=np.uint8)
        grey = GROUND + texture[np.arange(first, last) % len(texture)]
        for each in self.planted:
            top, bottom = max(each.row, first), min(each.row + len(each.shape), last)
            if top < bottom:
                part = each.shape[top - each.row : bottom - each.row]
                grey[top - first : bottom - first, each.column : each.column + part.shape[1]][part] = DEFECT
        return np.broadcast_to(grey[..., None], (*grey.shape, 3))

    def blocks(self, height: int) -> Iterator[Pixels]:
        """All of it in blocks of this height."""
        made = max(height, 512 // height * height)
        for first in range(0, self.rows, made):
            rows = self.pixels(first, min(first + made, self.rows))
            yield from (rows[at : at + height] for at in range(0, len(rows), height))


def make_web(rows: int, width: int, tiling: Tiling, seed: int = 0) -> Web:
    """A web with every kind of defect again and again, and with one at its start and one at its end."""
    rng = np.random.default_rng(seed)
    slot, pad = 2 * tiling.height + tiling.step, 4
    planted = [Planted("at the start of the web", 0, width // 3, np.ones((9, 5), np.bool_))]
    planted.append(Planted("at the end of the web", rows - 6, width // 3, np.ones((6, 8), np.bool_)))
    for number, first in enumerate(range(2 * tiling.height, rows - 2 * slot, slot)):
        kind = KINDS[number % len(KINDS)]
        shape = _shape(kind, tiling, rng)
        row, column = _place(kind, shape.shape, first, width, tiling, rng)
        assert row + len(shape) + pad < first + slot + tiling.height, kind
        planted.append(Planted(kind, row, column, shape))
    return Web(rows, width, tuple(sorted(planted, key=lambda each: each.row)))


def _shape(kind: str, tiling: Tiling, rng: np.random.Generator) -> NDArray[np.bool_]:
    height, width = (int(side) for side in rng.integers(6, max(tiling.overlap // 2, 8), 2))
    if kind == "larger than the overlap":
        return np.ones((tiling.overlap + 9, tiling.overlap + 20), np.bool_)
    if kind == "over several tiles and bands":
        return np.ones((tiling.height + tiling.step // 2, tiling.width + tiling.width // 4), np.bool_)
    if kind == "a diagonal of single pixels":
        return np.eye(tiling.overlap + 30, dtype=np.bool_)
    if kind == "a single pixel":
        return np.ones((1, 1), np.bool_)
    shape = np.ones((height, width), np.bool_)
    if kind == "a ring":
        shape = np.ones((tiling.height // 2, tiling.width // 2), np.bool_)
        shape[3:-3, 3:-3] = False
    if "two" in kind and "one" in kind:
        shape = np.zeros((tiling.height + 20, 60), np.bool_)
        shape[:, :3] = shape[:, -3:] = True
        shape[-3:] = True
        shape = shape if kind.startswith("two") else shape[::-1].copy()
    return shape


def _place(
    kind: str, size: tuple[int, int], first: int, width: int, tiling: Tiling, rng: np.random.Generator
) -> tuple[int, int]:
    """Where a shape of this size goes, from this row on."""
    height, shape_width = size
    columns = tiling.columns(width)
    band = -(-first // tiling.step) * tiling.step  # a band's first row; the one before ends an overlap further down
    seam_row, seam_column = band + int(rng.choice((0, tiling.overlap))), int(rng.choice([c.start for c in columns[1:]]))
    row, column = band + tiling.overlap + 10, columns[1].start - shape_width - 5
    if kind in ("across the rows of two bands", "across the borders of blocks", "across the corners of four tiles"):
        row = seam_row - height // 2
    if kind in ("across the columns of two tiles", "across the corners of four tiles"):
        column = seam_column - shape_width // 2
    if kind in ("over several tiles and bands", "larger than the overlap", "a ring", "a diagonal of single pixels"):
        row, column = band - 7, min(columns[1].start - 9, width - shape_width)
    if kind == "at the web's left edge":
        column = 0
    if kind == "at the web's right edge":
        column = width - shape_width
    return row, max(column, 0)


def threshold(pixels: Pixels) -> tuple[Mask, Scores]:
    """Stands for the model: what is bright is a defect."""
    grey = pixels[..., 0]
    return grey > THRESHOLD, grey.astype(np.float32) / np.float32(255)


def whole(web: Web) -> list[Region]:
    """The same web segmented as one image, from the top."""
    mask, score = threshold(web.pixels(0, web.rows))
    return sorted(find_regions(mask, score), key=lambda region: (region.box[1], region.box[0]))


def compare(web: Web, found: list[WebDefect], expected: list[Region]) -> dict[str, Any]:
    """What was reported beside what is right, and how far off it is at most, in pixels."""
    found = sorted(found, key=lambda each: (each.first_row, each.x0))
    places = Counter((each.row, each.row + len(each.shape) - 1) for each in web.planted)
    missing = places - Counter((each.first_row, each.last_row) for each in found)
    off = [
        max(abs(a - b) for a, b in zip(_figures(each), _figures_of(region), strict=True))
        for each, region in zip(found, expected, strict=False)
    ]
    return {
        "planted": len(web.planted),
        "whole": len(expected),
        "reported": len(found),
        "planted_not_reported": sum(missing.values()),
        "most_off_px": max(off, default=0.0),
        "areas_differ": sum(a.area_px != b.area_px for a, b in zip(found, expected, strict=False)),
        "right": len(found) == len(expected) == len(web.planted)
        and not missing
        and max(off, default=0.0) <= MOST_OFF_PX,
    }


def _figures(defect: WebDefect) -> tuple[float, ...]:
    return defect.x0, defect.first_row, defect.x1, defect.last_row + 1, defect.centroid_x, defect.centroid_row


def _figures_of(region: Region) -> tuple[float, ...]:
    return *region.box, *region.centroid


def inspect(web: Web, height: int, tiling: Tiling, longest: int = LONGEST_DEFECT) -> tuple[list[WebDefect], Any]:
    """The web in blocks of this height: its defects, and, while memory is traced, what is held after each twentieth."""
    regions, held = WebRegions(web.width, longest=longest), {}

    def watched() -> Iterator[Pixels]:
        marks, rows = [web.rows * part // 20 for part in range(1, 20) if tracemalloc.is_tracing()], 0
        for block in web.blocks(height):
            yield block
            rows += len(block)
            while marks and rows >= marks[0]:
                gc.collect()
                traced, _ = tracemalloc.get_traced_memory()
                held[marks.pop(0)] = {"traced": traced, "resident": _own_resident_bytes()}

    return list(find_defects(watched(), threshold, tiling, web.width, regions)), held


def _own_resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def stitching(rows: int, width: int, heights: tuple[int, ...], *, timed: bool = True) -> dict[str, Any]:
    """The stitching alone, over blocks of all heights; `timed`: once more without tracing memory, by the clock."""
    tiling = Tiling()
    web = make_web(rows, width, tiling)
    runs = {}
    for height in console.progress(list(heights), "heights", len(heights)):
        gc.collect()
        gc.freeze()  # what was there before is not traced, and not looked through at each mark
        tracemalloc.start()
        found, held = inspect(web, height, tiling)
        tracemalloc.stop()
        gc.unfreeze()
        runs[height] = {"held_bytes": held, "found": found}
        if timed:
            began = time.perf_counter()
            for _ in find_defects(web.blocks(height), threshold, tiling, web.width):
                pass
            runs[height]["seconds"] = time.perf_counter() - began
    expected = whole(web)  # last: it takes more memory than all the others
    for run in runs.values():
        run.update(compare(web, run.pop("found"), expected))
        held = [*run["held_bytes"].values()]
        run["growth"] = {name: _growth([each[name] for each in held]) for name in ("traced", "resident")}
    kinds = Counter(each.kind for each in web.planted)
    return {"rows": rows, "width": width, "tiling": vars(tiling), "kinds": kinds, "block_heights": runs}


def _growth(held: list[int]) -> float:
    """The most of the second half beside the most of the first."""
    middle = len(held) // 2
    return max(held[middle:]) / max(held[:middle])


def served(rows: int, width: int, height: int, policy: Literal["block", "latest"]) -> dict[str, Any]:
    """A real server with the embedded bundle, sent rows as fast as it takes them: rows a second, and its memory."""
    web, counts, held = make_web(rows, width, Tiling()), Counter[str](), []
    with (
        server_process(["--log-level", "error"]) as server,
        Client(f"127.0.0.1:{server.port}", timeout_s=600) as client,
    ):
        client.wait_ready(60)
        grey = (block[..., 0] for block in web.blocks(height))
        began = time.perf_counter()
        for event in client.scan(WebSettings(width, "MONO8", policy=policy), grey):
            counts[type(event).__name__] += 1
            if isinstance(event, ScanProgress) and event.rows_settled >= rows * (len(held) + 1) // 20:
                held.append(sum(resident_bytes(server.process.pid).values()))
            if isinstance(event, ScanSummary):
                summary = event
        seconds = time.perf_counter() - began
    inspected = summary.rows - summary.rows_skipped
    return {
        "rows": summary.rows,
        "width": width,
        "block_height": height,
        "policy": policy,
        "seconds": seconds,
        "rows_skipped": summary.rows_skipped,
        "rows_per_s": {"inspected": inspected / seconds, "as_the_server_says": summary.rows_per_s},
        "tiles": summary.tiles,
        "defects": counts[ScanDefect.__name__],
        "skipped_events": counts[ScanSkipped.__name__],
        "server_bytes": held,
        "growth": _growth(held) if len(held) > 3 else None,
    }


def main() -> int:
    """Run both and write the file; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of the web; {ROWS}")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"its width; {WIDTH}")
    parser.add_argument("--out", type=Path, help="file to write; by default benchmarks/full/<date>-<commit>-web.json")
    parser.add_argument("--json", action="store_true", help="print the report as well")
    arguments = parser.parse_args()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    report = {
        "command": " ".join(["tools/web_proof.py", *sys.argv[1:]]),
        "machine": describe_machine(),
        "commit": commit,
        "stitching": stitching(arguments.rows, arguments.width, HEIGHTS),
        "served": [served(*run) for run in SERVED],
    }
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-web.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    runs = report["stitching"]["block_heights"]
    wrong = [height for height, run in runs.items() if not run["right"] or run["growth"]["traced"] > MOST_GROWTH]
    if arguments.json:
        console.print_json(report)
    print(f"wrote {out}; {'wrong for block heights ' + str(wrong) if wrong else 'all is right'}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
