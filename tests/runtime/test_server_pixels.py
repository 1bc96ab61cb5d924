"""Raw frames to RGB, and the one line that says what is wrong with them."""

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.pixels import LAYOUTS, raw_to_rgb


def raw(number: int, array: np.ndarray, **changes: object) -> pb.RawImage:
    height, width = array.shape[:2]
    fields = {"pixel_format": number, "width": width, "height": height, "data": array.tobytes()}
    return pb.RawImage(**{**fields, **changes})


def test_rgb8_and_bgr8_differ_in_the_order_of_the_channels_only(rng):
    image = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_RGB8, image)), image)
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_BGR8, image)), image[..., ::-1])


def test_mono8_is_grey_in_all_channels(rng):
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_MONO8, grey)), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize(
    ("pixel_format", "limit"),
    [(pb.PIXEL_FORMAT_MONO10, 1023), (pb.PIXEL_FORMAT_MONO12, 4095), (pb.PIXEL_FORMAT_MONO16, 65535)],
)
def test_deep_samples_are_scaled_by_the_nominal_depth(pixel_format, limit):
    samples = np.arange(limit + 1, dtype="<u2")[None]
    expected = np.rint(samples * (255 / limit)).astype(np.uint8)
    assert np.array_equal(raw_to_rgb(raw(pixel_format, samples))[..., 1], expected)


@pytest.mark.parametrize("pixel_format", LAYOUTS)
def test_padding_of_rows_is_ignored_and_may_lack_in_the_last_row(pixel_format, rng):
    layout = LAYOUTS[pixel_format]
    packed = 7 * layout.pixel_bytes
    rows = rng.integers(0, 3, (5, packed), dtype=np.uint8)
    if layout.bits > 8:
        rows[:, 1::2] = 0
    size = {"width": 7, "height": 5}
    plain = raw_to_rgb(pb.RawImage(pixel_format=pixel_format, data=rows.tobytes(), **size))
    padded = np.full((5, packed + 6), 255, np.uint8)
    padded[:, :packed] = rows
    for data in (padded.tobytes(), padded.tobytes()[:-6]):
        message = pb.RawImage(pixel_format=pixel_format, data=data, stride=packed + 6, **size)
        assert np.array_equal(raw_to_rgb(message), plain)


GREY = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"pixel_format": 0}, "frame.raw.pixel_format: found UNSPECIFIED, expected one of MONO8, MONO10, MONO12, "),
        ({"pixel_format": 99}, "frame.raw.pixel_format: found 99, expected one of MONO8"),
        ({"width": 0}, "frame.raw.width: found 0, expected at least 1"),
        ({"height": 0}, "frame.raw.height: found 0, expected at least 1"),
        ({"width": 4294967295, "height": 4294967295}, "expected at most 200 megapixels"),
        ({"stride": 5}, "frame.raw.stride: found 5, expected at least 6 bytes for 6 x 4 MONO8"),
        ({"stride": 4294967295}, "frame.raw.data: found 24 bytes, expected 12884901891 to 17179869180"),
        ({"data": b"x" * 23}, "frame.raw.data: found 23 bytes, expected 24 for 6 x 4 MONO8, stride 6"),
        ({"data": b"x" * 25}, "frame.raw.data: found 25 bytes, expected 24"),
        ({"data": b""}, "frame.raw.data: found 0 bytes, expected 24"),
        (
            {"data": b"\xff" * 48, "pixel_format": pb.PIXEL_FORMAT_MONO12},
            "found a sample of 65535, expected at most 4095",
        ),
    ],
)
def test_a_wrong_frame_is_refused_with_field_found_and_expected(changes, text):
    with pytest.raises(InputError) as caught:
        raw_to_rgb(raw(pb.PIXEL_FORMAT_MONO8, GREY, **changes))
    assert text in str(caught.value)
