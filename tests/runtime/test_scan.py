"""`Scan`: a web's defects once each, skipped rows told, and a server that is none the worse for whatever comes."""

import threading
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter

import grpc
import numpy as np
import pytest

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.tiling import Tiling
from agvas_runtime.web import find_defects
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL, WAIT_S, live_server, until

MOST_STREAMS = 4
SCAN = "/agvas.v1.Inspection/Scan"
BLOCK, LATEST = pb.QUEUE_POLICY_BLOCK, pb.QUEUE_POLICY_LATEST
TILING = Tiling(96, 128, 16)
WEB = np.concatenate([np.tile(IMAGES[number], (1, 2, 1)) for number in (DEFECT, NORMAL, DEFECT, 4, NORMAL, DEFECT)])
"""uint8 [540, 240, 3]: seven bands of two tiles."""
ROWS, WIDTH, _ = WEB.shape
STOP = pb.SegmentRequest(recipe=pb.Recipe(on_no_answer=pb.NO_ANSWER_ACTION_STOP))


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


class Scan:
    """A web's stream whose blocks are given one by one."""

    def __init__(self, live, *first: pb.ScanRequest, **fields) -> None:
        self._messages = SimpleQueue()
        for message in first or [opening(**fields)]:
            self._messages.put(message)
        self.call = live.inspection.Scan(iter(self._messages.get, None), timeout=WAIT_S)

    def send(self, *blocks) -> None:
        """Rows, or messages."""
        for block in blocks:
            self._messages.put(rows(block) if isinstance(block, np.ndarray) else block)

    def finish(self) -> None:
        self._messages.put(None)

    def close(self) -> None:
        self._messages.put(None)
        self.call.cancel()

    def until(self, kind: str) -> list[pb.ScanResponse]:
        """The events up to the first one of this kind."""
        events = []
        for event in self.call:
            events.append(event)
            if event.WhichOneof("event") == kind:
                break
        return events

    def next(self, kind: str):
        """The next event of this kind."""
        return getattr(self.until(kind)[-1], kind)

    def all(self, *kinds: str) -> list:
        """What comes of these kinds until the stream ends."""
        events = [(event.WhichOneof("event"), event) for event in self.call]
        return [getattr(event, kind) for kind, event in events if kind in kinds]

    def code(self) -> grpc.StatusCode:
        with suppress(grpc.RpcError):
            list(self.call)
        return self.call.code()


def opening(**fields) -> pb.ScanRequest:
    usual = {
        "camera_id": "web",
        "pixel_format": pb.PIXEL_FORMAT_RGB8,
        "width": WIDTH,
        "tile_height": TILING.height,
        "tile_width": TILING.width,
        "overlap": TILING.overlap,
    }
    return pb.ScanRequest(open=pb.ScanStream(**{**usual, **fields}))


def rows(pixels: np.ndarray, **fields) -> pb.ScanRequest:
    return pb.ScanRequest(rows=pb.RowBlock(**{"height": len(pixels), "data": pixels.tobytes(), **fields}))


def in_blocks(height: int) -> list[np.ndarray]:
    return [WEB[at : at + height] for at in range(0, ROWS, height)]


@pytest.fixture(scope="module")
def expected(segmenter):
    """What the segmenter finds in the web, tile by tile."""

    def segment(pixels):
        result = segmenter.segment(np.ascontiguousarray(pixels))
        return result.mask, result.probability

    found = sorted(find_defects([WEB], segment, TILING, WIDTH), key=lambda each: (each.first_row, each.x0))
    assert len(found) > 5
    return found


def place(defect) -> tuple:
    return defect.first_row, defect.last_row, defect.x0, defect.x1, defect.area_px


# Opening


def test_a_heartbeat_comes_at_once_and_further_ones_follow(scan):
    stream = scan(heartbeat_ms=100)
    for _ in range(3):
        assert stream.next("heartbeat") == pb.Heartbeat(serving=True)


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (pb.ScanRequest(), "event: the first message of a stream opens it: found nothing, expected open"),
        (rows(WEB), "event: the first message of a stream opens it: found rows, expected open"),
        (opening(camera_id="x" * 257), "open.camera_id: found 257 characters, expected at most 256"),
        (opening(pixel_format=0), "open.pixel_format: found UNSPECIFIED, expected one of MONO8, MONO10"),
        (opening(pixel_format=99), "open.pixel_format: found 99, expected one of MONO8"),
        (opening(width=0), "open.width: found 0, expected 1 to 65536 pixels"),
        (opening(width=65_537), "open.width: found 65537"),
        (opening(width=20_000), "open.width: found 20000 pixels in bands of tile_height 96, expected at most 1 mega"),
        (opening(tile_height=15), "open.tile_height: found 15, expected 16 to 65536"),
        (opening(tile_width=70_000), "open.tile_width: found 70000"),
        (opening(overlap=49), "open.overlap: found 49, expected 0 to 48, half of the tile's shorter side"),
        (opening(mm_per_pixel=0.1), "open.mm_per_row: found none beside mm_per_pixel, expected both or none"),
        (opening(mm_per_row=0.1), "open.mm_per_pixel: found none beside mm_per_row"),
        (opening(mm_per_pixel=0.1, mm_per_row=0), "open.mm_per_row: found 0, expected millimetres above 0"),
        (opening(mm_per_pixel=float("nan"), mm_per_row=1), "open.mm_per_pixel: found nan"),
        (opening(policy=9), "open.policy: found 9, expected LATEST or BLOCK"),
        (opening(queue_rows=95), "open.queue_rows: found 95, expected 96 to 4166"),
        (
            opening(width=241, pixel_format=pb.PIXEL_FORMAT_YUV422_UYVY),
            "open.width: found 241, expected an even number",
        ),
        (opening(longest_defect_rows=0), "open.longest_defect_rows: found 0, expected 1 to 1000000"),
        (opening(heartbeat_ms=99), "open.heartbeat_ms: found 99, expected 100 to 60000"),
        (opening(defaults=pb.SegmentRequest(frame=pb.Frame(encoded=b"1"))), "open.defaults.frame: found a frame"),
        (opening(defaults=pb.SegmentRequest(deadline_ms=9)), "deadline_ms: found 9, expected none for a web"),
        (opening(defaults=pb.SegmentRequest(recipe_name="part")), "recipe.roi: found one, expected none"),
        (opening(defaults=pb.SegmentRequest(recipe_name="nut")), "recipe_name: found 'nut'"),
        (opening(defaults=pb.SegmentRequest(mode=pb.MODE_CONVERSATION)), "mode conversation needs instruction"),
    ],
)
def test_a_wrong_opening_is_an_invalid_argument_that_names_the_field(scan, first, text):
    stream = scan(first)
    assert stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in stream.call.details()


def test_a_stream_without_any_message_and_one_that_opens_with_garbage_say_what_was_expected(live):
    call = live.channel.stream_stream(SCAN)
    for messages, text in (
        ((), "found nothing, expected open"),
        ((b"\xff",), "message: found 1 bytes that are no Scan"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter(messages), timeout=WAIT_S))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in caught.value.details()


def test_webs_and_cameras_share_the_places_for_streams(live, scan):
    for stream in [scan() for _ in range(MOST_STREAMS - 1)]:
        stream.next("heartbeat")
    live.open().heartbeat()
    assert scan().code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Defects


@pytest.mark.parametrize("height", [1, 37, 96, 200, ROWS])
def test_defects_are_those_of_the_tiles_put_together_once_each(live, scan, expected, height):
    stream = scan()
    stream.send(*in_blocks(height))
    stream.finish()
    events = stream.all("defect", "summary")
    *defects, summary = events
    assert [each.index for each in defects] == list(range(len(defects)))
    found = sorted(defects, key=lambda each: (each.first_row, each.x0))
    assert [place(each) for each in found] == [place(each) for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.centroid_x, one.centroid_row) == pytest.approx((other.centroid_x, other.centroid_row))
        assert (one.mean_score, one.max_score) == pytest.approx((other.mean_score, other.max_score))
        assert (one.begins_cut, one.ends_cut, one.HasField("mm"), one.HasField("encoder_count")) == (False,) * 4
    assert (summary.rows, summary.rows_skipped, summary.defects, summary.ignored) == (ROWS, 0, len(defects), 0)
    assert summary.model.name == "agvas-tiny"
    assert summary.rows_per_s > 0
    assert summary.tiles == 14 == len(live.computed)
    assert stream.call.code() is grpc.StatusCode.OK


def test_a_defect_is_reported_before_the_web_ends_and_progress_says_which_rows_are_settled(scan, expected):
    stream = scan()
    stream.send(WEB[:300])
    first = progress = stream.next("progress")
    assert first.rows_settled == TILING.step - 1  # a defect that touches the last row may go on in the next band
    while progress.rows_settled < 200:
        assert progress.rows_received == 300
        progress = stream.next("progress")
    stream.finish()
    last = [*stream.all("progress", "summary")]
    assert [each.rows_settled for each in last[:-1]] == sorted(each.rows_settled for each in last[:-1])
    assert last[-2].rows_settled == last[-1].rows == 300


def test_millimetres_and_encoder_counts_come_with_the_defects_where_they_are_given(scan, expected):
    stream = scan(mm_per_pixel=0.1, mm_per_row=0.25)
    for number, block in enumerate(in_blocks(90)):
        stream.send(rows(block, encoder_count=-1000 + number))
    stream.finish()
    found = sorted(stream.all("defect"), key=lambda each: (each.first_row, each.x0))
    for one, other in zip(found, expected, strict=True):
        assert one.encoder_count == -1000 + other.first_row // 90
        assert (one.mm.x0, one.mm.x1) == pytest.approx((other.x0 * 0.1, other.x1 * 0.1))
        assert (one.mm.y0, one.mm.y1) == pytest.approx((other.first_row * 0.25, (other.last_row + 1) * 0.25))
        assert one.mm.centroid_x == pytest.approx((other.centroid_x + 0.5) * 0.1)
        assert one.mm.centroid_y == pytest.approx((other.centroid_row + 0.5) * 0.25)
        assert one.mm.area == pytest.approx(other.area_px * 0.025)


def test_the_recipe_holds_for_whole_defects(scan, expected):
    stream = scan(camera_id="large")
    stream.send(WEB)
    stream.finish()
    *defects, summary = stream.all("defect", "summary")
    large = [each for each in expected if each.area_px >= 200]
    assert sorted(place(each) for each in defects) == sorted(place(each) for each in large)
    assert 0 < len(large) < len(expected)
    assert (summary.recipe_name, summary.ignored) == ("large", len(expected) - len(large))


@pytest.mark.parametrize(
    ("name", "dtype"), [("MONO8", np.uint8), ("MONO12", "<u2"), ("MONO16", "<u2"), ("BGR8", np.uint8)]
)
def test_rows_of_other_formats_with_a_stride_are_the_same_web(scan, name, dtype):
    grey = WEB[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    scale = {"MONO12": 4095 / 255, "MONO16": 257}.get(name, 1)
    pixels = as_rgb if name == "BGR8" else np.rint(grey * float(scale)).astype(dtype)
    padded = np.pad(pixels.reshape(ROWS, -1).view(np.uint8), ((0, 0), (0, 5)), constant_values=7)
    places = []
    for first, block in (
        (opening(), rows(as_rgb)),
        (opening(pixel_format=pb.PixelFormat.Value(f"PIXEL_FORMAT_{name}")), rows(padded, stride=padded.shape[1])),
    ):
        stream = scan(first)
        stream.send(block)
        stream.finish()
        places.append([place(each) for each in stream.all("defect")])
    assert places[0] == places[1] != []


# Rows that are not inspected


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
    stream = scan(policy=LATEST, queue_rows=200, defaults=STOP)
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


# The end


def test_a_web_without_rows_ends_well(scan):
    stream = scan()
    stream.finish()
    (summary,) = stream.all("summary")
    assert (summary.rows, summary.tiles, summary.rows_per_s) == (0, 0, 0)
    assert stream.call.code() is grpc.StatusCode.OK


def test_what_a_caller_who_went_away_left_is_given_up(live, scan):
    stream = scan()
    with live.frozen():
        stream.send(WEB)
        until(lambda: live.accepted > 2)
        stream.close()
        until(lambda: live.accepted == 0 and live.server._service.open_streams == 0)
    until(lambda: live.arena.free_bytes == live.arena.size)
    assert len(live.computed) <= 1


def test_a_server_that_stops_settles_what_engines_have_skips_the_rest_and_says_so():
    with live_server() as live:
        stream = Scan(live, defaults=STOP)
        with live.frozen():
            stream.send(WEB)
            until(lambda: live.accepted > 2)
            idle = Scan(live, camera_id="idle")
            idle.next("heartbeat")
            stopping = threading.Thread(target=live.server.stop)
            stopping.start()
            until(lambda: live.session("web") is None or live.session("web")._stopping)
        events = stream.until("summary")
        stopping.join(WAIT_S)
        assert stream.code() is idle.code() is grpc.StatusCode.UNAVAILABLE
        assert stream.call.details() == "the server is being stopped"
        assert events[-1].summary.rows == ROWS
        skipped = [event.skipped for event in events if event.HasField("skipped")]
        assert {each.status for each in skipped} == {pb.FRAME_STATUS_REFUSED}
        assert skipped[-1].first_row + skipped[-1].rows == ROWS
        assert skipped[-1].gate == pb.GATE_STOP
        assert 0 < events[-1].summary.rows_skipped < ROWS


def test_a_drained_server_skips_the_rows_of_its_streams():
    with live_server() as live:
        stream = Scan(live, defaults=STOP)
        stream.next("heartbeat")
        live.server.drain()
        stream.send(WEB[:96])
        skipped = stream.next("skipped")
        assert (skipped.status, skipped.rows) == (pb.FRAME_STATUS_REFUSED, 96)
        assert skipped.reason == "the server is drained: it takes no new frames"
        stream.close()
