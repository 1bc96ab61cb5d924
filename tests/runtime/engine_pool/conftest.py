"""One line for all tests of a file, and what the segmenter answers."""

from collections.abc import Iterator

import pytest

from agvas_runtime.result import Result
from agvas_runtime.segmenter import Segmenter
from tests.runtime.engine_pool.line import (
    IMAGES,
    WAIT_S,
    Line,
    assert_answers_any,
    running,
    until,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Line]:
    with running() as line:
        yield line


@pytest.fixture
def line(shared: Line) -> Iterator[Line]:
    """One pool for many tests, whatever the one before did to it: it is ready, and has answered a frame."""
    until(lambda: shared.pool.ready)
    assert_answers_any(shared.offered())
    shared.changes.clear()
    yield shared
    shared.pool.observe = None
    shared.on_change = lambda: None
    assert shared.lanes.wait_drained(WAIT_S)


@pytest.fixture(scope="module")
def expected(segmenter: Segmenter) -> list[Result]:
    return [segmenter.segment(image) for image in IMAGES]
