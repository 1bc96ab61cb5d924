"""Tiles that no engine can segment, or not yet: memory, rate, engines that die."""

from time import perf_counter

import numpy as np

from agvas_runtime.frames import grey_of
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from tests.runtime.live_server import until
from tests.runtime.scan.web import ROWS, STOP, WEB, WIDTH, place


def test_tiles_that_no_engine_can_segment_are_skipped_and_the_web_goes_on(live, scan):
    stream = scan(defaults=STOP)
    stream.send(WEB[:112])
    stream.next("progress")
    live.lanes.fail("the engine is restarted")
    stream.send(WEB[112:300])
    failed = stream.next("skipped")
    live.lanes.recover()
    stream.send(WEB[300:])
    stream.finish()
    *_, summary = stream.all("summary")
    assert (failed.status, failed.reason) == (pb.FRAME_STATUS_ENGINE_FAILED, "the engine is restarted")
    assert (failed.first_row, failed.rows, failed.x0, failed.x1) == (80, 96, 0, WIDTH)
    assert failed.gate == pb.GATE_STOP
    assert 96 <= summary.rows_skipped < summary.rows == ROWS


def test_a_grey_web_s_tiles_are_grey(live, scan, monkeypatch):
    placed, place = [], live.arena.place

    def placing(image, **options):
        placed.append(grey_of(image) is not None)
        return place(image, **options)

    monkeypatch.setattr(live.arena, "place", placing)
    stream = scan(pixel_format=pb.PIXEL_FORMAT_MONO8)
    stream.send(np.ascontiguousarray(WEB[..., 1]))
    stream.finish()
    assert stream.all("summary")[0].rows == ROWS
    assert placed
    assert all(placed)


def test_a_tile_whose_engine_dies_is_segmented_by_the_next_one(live, scan, expected):
    stream = scan()
    with live.frozen():
        stream.send(WEB)
        until(lambda: live.accepted > 2)
        live.kill()
    stream.finish()
    *defects, summary = stream.all("defect", "summary")
    assert sorted(place(each) for each in defects) == sorted(place(each) for each in expected)
    assert summary.rows_skipped == 0


def test_a_tile_without_an_answer_that_can_be_trusted_is_skipped(scan):
    stream = scan(defaults=pb.SegmentRequest(decoding=pb.Decoding(max_new_tokens=1), recipe=STOP.recipe))
    stream.send(WEB[:96])
    skipped = stream.next("skipped")
    assert (skipped.status, skipped.gate) == (pb.FRAME_STATUS_OK, pb.GATE_STOP)
    assert "stopped by the limit" in skipped.reason


def test_tiles_wait_for_room_in_memory(live, scan):
    stream = scan()
    stream.next("heartbeat")
    with live.full_memory():
        stream.send(WEB)
        until(lambda: live.session("web")._line._full)
    stream.finish()
    assert stream.all("skipped", "summary")[0].rows == ROWS


def test_a_stream_s_rate_holds_for_its_tiles_and_does_not_hold_up_its_end(live, scan, monkeypatch):
    monkeypatch.setattr(live.server._service, "_rate_per_s", 1.0)  # two at once
    stream = scan()
    stream.send(WEB)
    stream.next("progress")
    until(lambda: live.session("web")._line.not_before > perf_counter())
    assert len(live.computed) <= 3
    stream.close()
    until(lambda: live.server._service.open_streams == 0)


def test_tiles_that_wait_for_room_do_not_use_up_the_rate(live, scan, monkeypatch):
    monkeypatch.setattr(live.server._service, "_rate_per_s", 0.5)  # one at once, and the next after two seconds
    stream = scan()
    stream.next("heartbeat")
    line = live.session("web")._line
    taken, take = [], line._bucket.take
    monkeypatch.setattr(line._bucket, "take", lambda: taken.append(take()) or taken[-1])
    with live.full_memory():
        stream.send(WEB)
        until(lambda: len(taken) > 2)  # the same tile, again and again
        assert all(taken)
    until(lambda: live.computed)
    stream.close()
