"""The client: every kind of image, every kind of error."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.client import Client, ConnectionLostError, DeadlineMissedError
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_image
from agvas_runtime.scan_wire import WebSettings
from agvas_runtime.server.channel import client_options
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.wire import RawFrame


def test_a_path_its_bytes_and_its_pixels_give_the_same_mask(client, photo):
    expected = client.segment(photo).mask
    for image in (str(photo), photo.read_bytes(), read_image(photo)):
        assert np.array_equal(client.segment(image).mask, expected)


def test_every_way_of_sending_the_mask_gives_the_same_array(client, photo):
    packed = client.segment(photo)
    assert packed.mask.dtype == np.bool_
    for choice in ("png", "coco_rle", "polygons"):
        assert np.array_equal(client.segment(photo, mask=choice).mask, packed.mask)
    assert client.segment(photo, mask="none").mask is None


def test_every_way_of_sending_the_map_gives_the_same_array_up_to_its_rounding(client, photo):
    exact = client.segment(photo, probability="float32").probability
    for choice, rounding in (("png16", 1e-5), ("float16", 2**-12)):
        found = client.segment(photo, probability=choice).probability
        assert found.dtype == exact.dtype == np.float32
        assert np.abs(found - exact).max() <= rounding


def test_pixels_that_are_no_contiguous_block_are_sent_as_they_look(client, photo):
    image = read_image(photo)
    assert np.array_equal(client.segment(image[::2, ::2]).mask, client.segment(image[::2, ::2].copy()).mask)


def test_big_endian_samples_are_sent_as_the_same_numbers(client):
    samples = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    reply = client.segment(samples, probability="float32")
    assert np.array_equal(client.segment(samples.astype(">u2"), probability="float32").probability, reply.probability)


def test_the_recipe_travels(client, photo):
    reply = client.segment(photo, recipe=Recipe(min_area_px=10**9, on_no_answer="stop"))
    assert reply.verdict is not Verdict.REJECT
    assert reply.gate == {Verdict.PASS: "pass", Verdict.NO_ANSWER: "stop"}[reply.verdict]


def test_threshold_alpha_and_roi_travel(client, segmenter, photo):
    recipe = Recipe(threshold=0.3, alpha=1.0, roi=(100, 5, 190, 150))
    expected = segmenter.segment(photo, recipe=recipe)
    reply = client.segment(photo, recipe=recipe, probability="float32")
    assert np.array_equal(reply.probability, expected.probability)
    assert np.array_equal(reply.mask, expected.mask)
    assert reply.reason == expected.reason
    assert 0 < reply.defect_area_px < client.segment(photo).defect_area_px
    with pytest.raises(InputError, match=r"recipe.roi: found .9999, 0, 10000, 1.*expected one that meets the frame"):
        client.segment(photo, recipe=Recipe(roi=(9999, 0, 10000, 1)))


@pytest.mark.parametrize(
    ("image", "options", "text"),
    [
        (np.zeros((4, 4, 5), np.uint8), {}, "image: found uint8 [4, 4, 5], expected uint8 [H, W, 3 or 4]"),
        (np.zeros((4, 4, 3), np.float32), {}, "image: found float32 [4, 4, 3]"),
        (np.zeros(4, np.uint8), {}, "image: found uint8 [4]"),
        (np.zeros((4, 4), np.uint8), {"pixel_format": "RGB8"}, "pixel_format: found RGB8, expected MONO8"),
        (np.zeros((0, 4), np.uint8), {}, "frame.raw.height: found 0"),
        (b"x", {"pixel_format": "RGB8"}, "pixel_format: found RGB8 for an image file"),
        (b"x", {}, "frame.encoded: not an image"),
        ("no/such/file.png", {}, "no/such/file.png: No such file or directory"),
        ("no\0file", {}, "embedded null byte"),
        (bytearray(b"x"), {}, "image: found bytearray, expected an array, bytes, a path or a RawFrame"),
        (RawFrame(memoryview(bytes(64))[::2], 8, 4, "MONO8"), {}, "image: found data that are no bytes in one piece"),
        (np.zeros((4, 4), np.uint8), {"instruction": ""}, "instruction: found a blank text"),
        (np.zeros((4, 4), np.uint8), {"instruction": " "}, "instruction: found a blank text"),
    ],
)
def test_an_image_that_cannot_be_used_is_an_input_error(client, image, options, text):
    with pytest.raises(InputError) as caught:
        client.segment(image, **options)
    assert text in str(caught.value)


def test_a_frame_above_the_server_s_limit_names_the_option_that_raises_it(client):
    with pytest.raises(InputError, match="--max-message-mb"):
        client.segment(bytes(65 << 20))


def test_an_absent_server_is_a_lost_connection_that_names_the_address():
    with Client("127.0.0.1:1") as client:
        with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:1: not ready after 0\.2 s"):
            client.wait_ready(timeout_s=0.2)
        with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:1"):
            client.model()


@pytest.mark.parametrize("token", [None, "t"])  # whose channel has gRPC's errors a step later
def test_a_closed_client_says_so_whatever_it_is_asked(token):
    client = Client("127.0.0.1:1", token=token)
    client.close()
    for call in (
        client.model,
        client.wait_ready,
        lambda: client.segment(b"x"),
        lambda: list(client.explain(b"x")),
        lambda: list(client.inspect([b"x"])),
        lambda: list(client.scan(WebSettings(8), [])),
    ):
        with pytest.raises(ConnectionLostError, match=r"^127\.0\.0\.1:1: the client is closed$"):
            call()


@pytest.mark.parametrize("token", [None, "t"])
@pytest.mark.parametrize(
    ("method", "call"),
    [("_segment", lambda client: client.segment(b"x")), ("_get_model", Client.model), ("_check", Client.wait_ready)],
)
def test_a_client_that_is_closed_while_a_call_begins_says_so(token, method, call):
    client = Client("127.0.0.1:1", token=token)
    begin = getattr(client, method)

    def closed_by_another_thread(*given, **options):
        client.close()
        return begin(*given, **options)

    setattr(client, method, closed_by_another_thread)
    with pytest.raises(ConnectionLostError, match=r"^127\.0\.0\.1:1: the client is closed$"):
        call(client)


class Restarting(health_pb2_grpc.HealthServicer):
    """Is gone when it is asked first, and serves when it is asked again."""

    def __init__(self):
        self.asked = 0

    def Check(self, request, context):
        self.asked += 1
        if self.asked == 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def test_a_server_that_is_restarted_while_it_is_waited_for_is_waited_for():
    server, health = grpc.server(ThreadPoolExecutor(1)), Restarting()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        client.wait_ready(timeout_s=30)
    server.stop(0)
    assert health.asked == 2


def test_a_server_that_is_back_is_looked_for_every_second():
    assert dict(client_options())["grpc.max_reconnect_backoff_ms"] == 1000


def test_a_call_that_takes_too_long_is_a_lost_connection(client, photo):
    with pytest.raises(ConnectionLostError, match=client.address):
        client.segment(photo, timeout_s=1e-6)


def test_a_frame_whose_deadline_passed_at_the_server_is_told_from_a_lost_connection(client, photo):
    with pytest.raises(DeadlineMissedError, match=f"{client.address}: the deadline of 0 ms passed before an engine"):
        client.segment(photo, deadline_ms=0.001)


def test_a_format_of_masks_that_is_none_is_refused_here(client):
    for options in ({"mask": "tiff"}, {"probability": "jpeg"}):
        (field,) = options
        with pytest.raises(InputError, match=f"{field}: found '{options[field]}', expected "):
            client.segment(np.zeros((8, 8, 3), np.uint8), **options)
