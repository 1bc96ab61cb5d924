"""One server for a room's tests, streams that are closed behind them, and what the segmenter finds in the web."""

import threading

import numpy as np
import pytest

from agvas_runtime.web import find_defects
from tests.runtime.live_server import live_server, until
from tests.runtime.scan.web import MOST_STREAMS, TILING, WEB, WIDTH, Scan


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    recipes = tmp_path_factory.mktemp("recipes")
    (recipes / "large.yaml").write_text("min_area_px: 200\non_no_answer: pass\n")
    (recipes / "part.yaml").write_text("roi: [0, 0, 9, 9]\n")
    with live_server(recipes=recipes, max_streams=MOST_STREAMS, max_megapixels=1, max_memory_mb=64) as live:
        yield live


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()
    until(lambda: not any(thread.name == "rows" for thread in threading.enumerate()))


@pytest.fixture
def scan(live):
    opened = []

    def open_stream(*first, **fields):
        opened.append(Scan(live, *first, **fields))
        return opened[-1]

    yield open_stream
    for stream in opened:
        stream.close()


@pytest.fixture(scope="module")
def expected(segmenter):
    """What the segmenter finds in the web, tile by tile."""

    def segment(pixels):
        result = segmenter.segment(np.ascontiguousarray(pixels))
        return result.mask, result.probability

    found = sorted(find_defects([WEB], segment, TILING, WIDTH), key=lambda each: (each.first_row, each.x0))
    assert len(found) > 5
    return found
