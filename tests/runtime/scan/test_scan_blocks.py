"""Blocks that are wrong, empty or too fast: their rows are skipped, told, and cut defects."""

import grpc
import numpy as np

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from tests.runtime.live_server import DEFECT, IMAGES, WAIT_S, until
from tests.runtime.scan.web import SCAN, STOP, WEB, WIDTH, opening, rows


def test_wrong_blocks_are_skipped_with_their_field_and_the_rows_behind_them_keep_their_numbers(live, scan):
    wrong = {
        "rows.data: found 5 bytes, expected 7200": (10, rows(WEB[:10], data=b"12345")),
        "rows.stride: found 7, expected at least 720 bytes": (10, rows(WEB[:10], stride=7)),
        "rows.height: found 0, expected at least 1": (0, rows(WEB[:10], height=0)),
        "rows: found 240 x 5000 pixels, expected at most 1 megapixels": (5000, rows(WEB[:10], height=5000)),
        "event: found open, expected rows": (0, opening()),
        "event: found nothing, expected rows": (0, pb.ScanRequest()),
    }
    stream = scan(defaults=STOP)
    for _, message in wrong.values():
        stream.send(message, WEB[:96])
    stream.finish()
    *skipped, summary = stream.all("skipped", "summary")
    at = 0
    for (reason, (count, _)), each in zip(wrong.items(), skipped, strict=True):
        assert reason in each.reason
        assert (each.first_row, each.rows, each.x0, each.x1) == (at, count, 0, WIDTH)
        assert (each.status, each.gate) == (pb.FRAME_STATUS_INVALID, pb.GATE_STOP)
        at += count + 96
    assert (summary.rows, summary.rows_skipped) == (at, 5020)
    assert stream.call.code() is grpc.StatusCode.OK


def test_a_message_that_is_none_is_skipped_and_the_stream_lives_on(live):
    messages = [opening(), rows(WEB[:96])]
    data = [message.SerializeToString() for message in messages]
    call = live.channel.stream_stream(SCAN)(iter([data[0], b"\xff\xff", data[1]]), timeout=WAIT_S)
    events = [pb.ScanResponse.FromString(each) for each in call]
    (skipped,) = [event.skipped for event in events if event.HasField("skipped")]
    assert skipped.reason.startswith("message: found 2 bytes that are no ScanRequest, expected")
    assert (skipped.rows, skipped.status) == (0, pb.FRAME_STATUS_INVALID)
    assert events[-1].summary.rows == 96


def test_a_sample_that_exceeds_its_format_is_a_wrong_block(scan):
    stream = scan(pixel_format=pb.PIXEL_FORMAT_MONO10)
    stream.send(rows(np.full((5, WIDTH), 1024, "<u2")))
    assert "rows.data: found a sample of 1024, expected at most 1023" in stream.next("skipped").reason


def test_skipped_rows_cut_defects_and_these_say_so(scan):
    defect = np.tile(IMAGES[DEFECT], (2, 2, 1))[:150]
    whole, cut = scan(), scan()
    whole.send(defect)
    whole.finish()
    (first, *_) = sorted(whole.all("defect"), key=lambda each: -each.area_px)
    middle = (first.first_row + first.last_row) // 2
    cut.send(np.zeros((0, 0, 3), np.uint8), defect[:middle], rows(WEB[:1], data=b""), defect[middle:])
    cut.finish()
    found = cut.all("defect")
    assert any(each.ends_cut and each.last_row == middle - 1 for each in found)
    assert all(each.begins_cut == (each.first_row == middle + 1) for each in found)


def test_a_block_without_rows_says_only_that_the_camera_is_there(scan):
    stream = scan()
    stream.send(pb.ScanRequest(rows=pb.RowBlock()), WEB[:96], pb.ScanRequest(rows=pb.RowBlock()))
    stream.finish()
    (summary,) = stream.all("skipped", "summary")
    assert (summary.rows, summary.rows_skipped, summary.tiles) == (96, 0, 2)


def test_with_latest_rows_that_come_too_fast_are_skipped_and_the_newest_are_inspected(live, scan):
    stream = scan(policy=pb.QUEUE_POLICY_LATEST, queue_rows=200, defaults=STOP)
    stream.next("heartbeat")
    session = live.session("web")
    with live.frozen():
        for number in range(60):
            stream.send(WEB[:100])
            until(lambda number=number: session._rows.received == 100 * (number + 1))
        assert session._rows.waiting <= 300
    stream.finish()
    *events, summary = stream.all("skipped", "progress", "summary")
    skipped = [each for each in events if isinstance(each, pb.ScanSkipped)]
    assert {(each.status, each.gate) for each in skipped} == {(pb.FRAME_STATUS_DROPPED, pb.GATE_STOP)}
    assert {each.reason for each in skipped} == {"rows came faster than they are inspected"}
    assert sum(each.rows for each in skipped) == summary.rows_skipped > 4500
    assert skipped[-1].first_row + skipped[-1].rows <= 5900  # the last block was inspected
    assert (summary.rows, events[-1].rows_settled) == (6000, 6000)
    assert summary.tiles == len(live.computed)


def test_with_block_the_sender_is_held_back_and_no_row_is_skipped(live, scan):
    large, sent = np.tile(WEB, (4, 4, 1))[:1000], []

    def messages():
        yield opening(width=large.shape[1], queue_rows=200)
        for number in range(40):
            sent.append(number)
            yield rows(large)

    with live.frozen():
        call = live.inspection.Scan(messages(), timeout=WAIT_S)
        next(call)
        session = live.session("web")
        until(lambda: session._in_hand is not None and not session._may_grow())
        assert session._rows.received <= 2000
        assert len(sent) < 20  # the others are on their way within HTTP/2's windows
    call.cancel()
    until(lambda: live.server._service.open_streams == 0)
