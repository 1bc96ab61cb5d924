"""The parts of `Scan` that need no server: rows that wait, what is told of defects, the client's messages."""

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.scan_wire import WebSettings
from agvas_runtime.server import scan_replies
from agvas_runtime.server.requests import read_settings
from agvas_runtime.server.scan_plan import ScanPlan
from agvas_runtime.server.scan_replies import BANDS_OF_RATE, Encoders, Events
from agvas_runtime.server.scan_rows import MOST_SECTIONS, SectionEnd, WaitingRows
from agvas_runtime.tiling import Band, Tiling
from agvas_runtime.web_regions import WebDefect

TILING = Tiling(16, 16, 4)
DROPPED, INVALID = pb.FRAME_STATUS_DROPPED, pb.FRAME_STATUS_INVALID


def block(rows: int) -> np.ndarray:
    return np.zeros((rows, 5, 3), np.uint8)


def taken(rows: WaitingRows) -> list:
    """Bands as (first, end), ends of sections as the rows they skip and where the next one begins."""
    found = []
    while (item := rows.take()) is not None:
        if isinstance(item, Band):
            found.append((item.first_row, item.first_row + len(item.pixels)))
        else:
            found.append(([(gap.first_row, gap.rows, gap.reason) for gap in item.gaps], item.next_row))
    return found


def test_rows_come_out_as_bands_as_soon_as_there_are_enough_and_the_rest_at_the_end():
    rows = WaitingRows(TILING)
    rows.add(block(15))
    assert (taken(rows), rows.ready, rows.waiting) == ([], False, 15)
    rows.add(block(20))
    assert taken(rows) == [(0, 16), (12, 28)]
    assert (rows.received, rows.waiting) == (35, 7)
    rows.finish()
    assert taken(rows) == [(19, 35), ([], None)]
    rows.finish()
    rows.drop(DROPPED, "late")
    assert taken(rows) == []


def test_rows_that_are_skipped_end_a_section_and_keep_their_numbers():
    rows = WaitingRows(TILING)
    rows.add(block(17))
    rows.skip(3, INVALID, "wrong")
    rows.skip(0, INVALID, "no message")
    rows.add(block(5))
    rows.finish()
    assert taken(rows) == [
        (0, 16),
        (1, 17),
        ([(17, 3, "wrong")], 20),
        ([(20, 0, "no message")], 20),
        (20, 25),
        ([], None),
    ]


def test_rows_that_are_dropped_are_those_that_no_band_has():
    rows = WaitingRows(TILING)
    rows.add(block(20))
    assert isinstance(rows.take(), Band)
    rows.add(block(30))
    rows.drop(DROPPED, "late")
    assert (rows.waiting, rows.received) == (0, 50)
    rows.add(block(16))
    assert taken(rows) == [([(16, 34, "late")], 50), (50, 66)]


def test_a_long_time_without_an_engine_is_one_gap():
    rows = WaitingRows(TILING)
    for _ in range(1000):
        rows.add(block(40))
        rows.drop(DROPPED, "late")
    assert not rows.crowded
    rows.skip(7, INVALID, "wrong")
    rows.add(block(3))
    rows.drop(DROPPED, "late")
    rows.finish()
    first, last = taken(rows)
    assert first == ([(0, 40_000, "late"), (40_000, 7, "wrong"), (40_007, 3, "late")], 40_010)
    assert last == ([], None)


def test_too_many_sections_are_a_crowd():
    rows = WaitingRows(TILING)
    for _ in range(MOST_SECTIONS):
        rows.add(block(1))
        rows.skip(1, INVALID, "wrong")
    assert rows.crowded
    while not isinstance(rows.take(), SectionEnd):
        pass
    assert not rows.crowded


def plan(**fields) -> ScanPlan:
    settings = read_settings(pb.SegmentRequest(), Mode.DIRECT)
    usual = {"mm": None, "policy": "block", "queue_rows": 9, "longest": 99, "heartbeat_s": 1.0}
    return ScanPlan("web", pb.PIXEL_FORMAT_MONO8, 100, TILING, **{**usual, **fields}, settings=settings)


def defect(first_row: int, last_row: int, x0: int, x1: int) -> WebDefect:
    return WebDefect(first_row, last_row, x0, x1, 0.0, 0.0, 1, 0.5, 0.5, False, False)


@pytest.mark.parametrize(
    ("found", "cut"),
    [
        (defect(0, 9, 20, 30), (False, True)),  # ends above the skipped tile
        (defect(0, 8, 20, 30), (False, False)),
        (defect(26, 30, 20, 30), (True, False)),  # begins below it
        (defect(27, 30, 20, 30), (False, False)),
        (defect(12, 14, 35, 40), (True, True)),  # beside it
        (defect(12, 14, 37, 40), (False, False)),
        (defect(0, 9, 0, 19), (False, False)),
        (defect(0, 9, 0, 20), (False, True)),
    ],
)
def test_a_defect_that_touches_a_skipped_tile_may_be_cut_there(found, cut):
    events = Events(plan())
    (skipped,) = events.missing(10, 16, [(slice(20, 36), INVALID, "wrong")], of=3)
    assert (skipped.skipped.x0, skipped.skipped.x1) == (20, 36)
    told = events.defect(found).defect
    assert (told.begins_cut, told.ends_cut) == cut


def test_a_band_without_any_result_is_one_message_and_its_rows_count_once():
    events = Events(plan())
    tiles = [(slice(0, 16), DROPPED, "late"), (slice(12, 28), DROPPED, "late")]
    (told,) = events.missing(0, 16, tiles, of=2)
    assert (told.skipped.x0, told.skipped.x1, told.skipped.rows) == (0, 100, 16)
    assert len(events.missing(12, 16, [tiles[0], (tiles[1][0], INVALID, "wrong")], of=2)) == 2
    assert events.progress(40, 0, 24).progress.rows_skipped == 28


def test_the_rate_is_that_of_the_time_with_rows(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(scan_replies, "perf_counter", lambda: clock[0])
    events = Events(plan())
    assert events.rows_per_s == 0
    for _ in range(2 * BANDS_OF_RATE):
        clock[0] += 3
        events.idle_s += 1
        events.inspected(12)
    assert events.rows_per_s == pytest.approx(6)
    clock[0] += 1000
    events.inspected(0)  # an engine failed
    clock[0] += 2
    events.inspected(12)
    assert events.rows_per_s == pytest.approx(6)


def test_encoder_counts_are_those_of_the_blocks_and_old_ones_are_forgotten():
    encoders = Encoders()
    encoders.note(0, None)
    assert encoders.of(5) is None
    for row in range(10, 1000, 10):
        encoders.note(row, -row)
    encoders.note(1000, None)
    assert [encoders.of(row) for row in (9, 10, 19, 20, 995, 1000)] == [None, -10, -10, -20, -990, None]
    encoders.forget(990)
    assert encoders.of(994) == -990
    assert len(encoders._counts) == 2


@pytest.mark.parametrize(
    ("fields", "rows", "text"),
    [
        ({}, np.zeros((3, 5), np.uint8), r"rows: found uint8 \[3, 5\], expected uint8 \[n, 4\] of MONO8"),
        ({}, np.zeros((3, 4), np.uint16), r"rows: found uint16 \[3, 4\], expected uint8 \[n, 4\] of MONO8"),
        ({"pixel_format": "RGB8"}, np.zeros((3, 4), np.uint8), r"expected uint8 \[n, 4, 3\] of RGB8"),
        ({"pixel_format": "MONO12P"}, np.zeros((3, 6, 1), np.uint8), r"expected uint8 \[n, bytes\] of MONO12P"),
    ],
)
def test_a_client_says_what_rows_it_expects(fields, rows, text):
    with pytest.raises(InputError, match=text):
        WebSettings(4, **fields).block(rows)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"pixel_format": "GREY"}, "pixel_format: found 'GREY', expected one of MONO8"),
        ({"policy": "drop"}, "policy: found 'drop', expected one of LATEST, BLOCK"),
        ({"width": -1}, "web: "),
    ],
)
def test_a_client_refuses_settings_that_the_protocol_does_not_know(fields, text):
    with pytest.raises(InputError, match=text):
        WebSettings(**{"width": 4, **fields}).message(pb.SegmentRequest())


def test_a_client_s_rows_travel_little_endian_and_without_gaps():
    pixels = np.arange(16, dtype=">u2").reshape(2, 8)[:, ::2]
    message = pb.ScanRequest.FromString(WebSettings(4, "MONO16").block(pixels, 7)).rows
    assert (message.height, message.encoder_count) == (2, 7)
    assert np.array_equal(np.frombuffer(message.data, "<u2").reshape(2, 4), pixels)
