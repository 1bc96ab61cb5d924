"""What opens a web's stream, and what is said of a wrong beginning."""

import grpc
import pytest

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from tests.runtime.live_server import WAIT_S
from tests.runtime.scan.web import MOST_STREAMS, SCAN, WEB, opening, rows


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
