"""Raw frames to RGB, and the one line that says what is wrong with them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.frames import grey_of
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import pixels
from agvas_runtime.server.pixels import LAYOUTS, format_name, raw_to_rgb


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


@pytest.mark.parametrize("pixel_format", LAYOUTS, ids=format_name)
def test_padding_of_rows_is_ignored_and_may_lack_in_the_last_row(pixel_format, rng):
    layout = LAYOUTS[pixel_format]
    width = 8 if layout.kind == "yuv" else 7
    packed = layout.row_bytes(width)
    rows = rng.integers(0, 3, (5, packed), dtype=np.uint8)
    if layout.bits > 8 and layout.kind in ("plain", "bayer"):
        rows[:, 1::2] = 0
    size = {"width": width, "height": 5}
    plain = raw_to_rgb(pb.RawImage(pixel_format=pixel_format, data=rows.tobytes(), **size))
    padded = np.full((5, packed + 6), 255, np.uint8)
    padded[:, :packed] = rows
    for data in (padded.tobytes(), padded.tobytes()[:-6]):
        message = pb.RawImage(pixel_format=pixel_format, data=data, stride=packed + 6, **size)
        assert np.array_equal(raw_to_rgb(message), plain)


@pytest.mark.parametrize("pixel_format", LAYOUTS, ids=format_name)
@pytest.mark.parametrize("height", [63, 64, 65, 66, 129, 200])
def test_where_bands_of_rows_meet_nothing_is_to_be_seen(pixel_format, height, rng, monkeypatch):
    layout, width = LAYOUTS[pixel_format], 10
    rows = rng.integers(0, 256, (height, layout.row_bytes(width)), dtype=np.uint8)
    if layout.bits > 8 and layout.kind in ("plain", "bayer"):
        rows[:, 1::2] &= layout.limit >> 8
    message = pb.RawImage(pixel_format=pixel_format, data=rows.tobytes(), width=width, height=height)
    whole = raw_to_rgb(message)
    monkeypatch.setattr(pixels, "BAND_PIXELS", 64 * width)
    found = raw_to_rgb(message)
    with ThreadPoolExecutor(3) as hands:
        monkeypatch.setattr(pixels, "LARGE_PIXELS", 1)
        assert np.array_equal(found, raw_to_rgb(message, hands=hands))
    assert np.array_equal(found, whole)


def test_grey_and_plain_colours_are_not_copied(rng):
    for number, channels in ((pb.PIXEL_FORMAT_MONO8, 1), (pb.PIXEL_FORMAT_RGB8, 3), (pb.PIXEL_FORMAT_BGRA8, 4)):
        content = memoryview(rng.integers(0, 256, 5 * 7 * channels, dtype=np.uint8))
        found = raw_to_rgb(pb.RawImage(pixel_format=number, width=7, height=5), content)
        assert np.shares_memory(found, np.asarray(content))
        assert (grey_of(found) is not None) == (channels == 1)


def test_the_fourth_byte_of_rgba_and_bgra_is_not_looked_at(rng):
    image = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_RGBA8, image)), image[..., :3])
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_BGRA8, image)), image[..., 2::-1])


@pytest.mark.parametrize(
    ("pixel_format", "data", "samples", "limit"),
    [  # worked out by hand from the formats' definitions
        (pb.PIXEL_FORMAT_MONO12P, "bc 3a 12", [0xABC, 0x123], 4095),
        (pb.PIXEL_FORMAT_MONO12P, "bc 3a 12 ff 0f", [0xABC, 0x123, 0xFFF], 4095),
        (pb.PIXEL_FORMAT_MONO12_PACKED, "ab 3c 12", [0xABC, 0x123], 4095),
        (pb.PIXEL_FORMAT_MONO12_PACKED, "ab 3c 12 ff 0f", [0xABC, 0x123, 0xFFF], 4095),
        (pb.PIXEL_FORMAT_MONO10P, "55 a9 fa 7f 00", [0x155, 0x2AA, 0x3FF, 0x001], 1023),
        (pb.PIXEL_FORMAT_MONO10P, "55 a9 0a", [0x155, 0x2AA], 1023),
        (pb.PIXEL_FORMAT_MONO10_PACKED, "55 21 aa", [0x155, 0x2AA], 1023),
    ],
)
def test_packed_samples_are_those_of_their_definition(pixel_format, data, samples, limit):
    rows = np.frombuffer(bytes.fromhex(data) * 2, np.uint8).reshape(2, -1)
    found = raw_to_rgb(raw(pixel_format, rows, width=len(samples)))
    assert found.shape == (2, len(samples), 3)
    assert (found == np.rint(np.array(samples) * 255 / limit)[None, :, None]).all()


@pytest.mark.parametrize(("pixel_format", "bits"), [(pb.PIXEL_FORMAT_MONO10P, 10), (pb.PIXEL_FORMAT_MONO12P, 12)])
@pytest.mark.parametrize("width", range(1, 10))
def test_rows_of_any_width_are_a_number_of_bits_one_after_the_other(pixel_format, bits, width, rng):
    samples = rng.integers(0, 1 << bits, (3, width))
    numbers = [sum(int(value) << (bits * at) for at, value in enumerate(row)) for row in samples]
    data = b"".join(number.to_bytes(-(-width * bits // 8), "little") for number in numbers)
    found = raw_to_rgb(pb.RawImage(pixel_format=pixel_format, width=width, height=3, data=data))
    assert np.array_equal(found[..., 0], np.rint(samples * 255 / ((1 << bits) - 1)))


def test_yuv_is_bt_601_at_full_range_in_either_order():
    uyvy = np.array([[128, 128, 128, 40, 85, 76, 255, 76], [128, 0, 128, 255, 255, 29, 107, 29]], np.uint8)
    expected = np.array(
        [[[128] * 3, [40] * 3, [254, 0, 0], [254, 0, 0]], [[0] * 3, [255] * 3, [0, 0, 254], [0, 0, 254]]]
    )
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_YUV422_UYVY, uyvy, width=4)), expected)
    yuyv = uyvy.reshape(2, 4, 2)[..., ::-1].copy()
    assert np.array_equal(raw_to_rgb(raw(pb.PIXEL_FORMAT_YUV422_YUYV, yuyv, width=4)), expected)


SENSOR = np.array([[10, 20, 30, 40], [50, 60, 70, 80], [90, 100, 110, 120], [130, 140, 150, 160]], np.uint8)


def test_colours_between_the_samples_of_a_sensor_are_their_neighbours_means():
    """R G R G / G B G B / ...: worked out by hand; beyond the border the picture is mirrored."""
    found = raw_to_rgb(raw(pb.PIXEL_FORMAT_BAYER_RG8, SENSOR))
    by_hand = {
        (0, 0): (10, 35, 60),  # red; green of 20 20 50 50
        (0, 1): (20, 20, 60),  # green in a row of red
        (1, 0): (50, 50, 60),  # green in a row of blue
        (1, 1): (60, 60, 60),  # blue; red of 10 30 90 110, green of 20 50 70 100
        (1, 2): (70, 70, 70),
        (2, 1): (100, 100, 100),
        (3, 3): (110, 135, 160),
    }
    assert {place: tuple(map(int, found[place])) for place in by_hand} == by_hand


@pytest.mark.parametrize(("pattern", "down", "right"), [("GR", 0, 1), ("GB", 1, 0), ("BG", 1, 1)])
def test_the_other_patterns_are_the_first_one_moved_by_a_pixel(pattern, down, right, rng):
    sensor = rng.integers(0, 256, (10, 11), dtype=np.uint8)
    whole = raw_to_rgb(raw(pb.PIXEL_FORMAT_BAYER_RG8, sensor))
    part = np.ascontiguousarray(sensor[down:, right:])
    moved = raw_to_rgb(raw(pb.PixelFormat.Value(f"PIXEL_FORMAT_BAYER_{pattern}8"), part))
    assert np.array_equal(moved[1:, 1:], whole[down + 1 :, right + 1 :])  # the new border is mirrored anew


@pytest.mark.parametrize(("bits", "limit"), [(10, 1023), (12, 4095), (16, 65535)])
def test_deep_samples_of_a_sensor_are_interpolated_before_they_are_rounded(bits, limit):
    top, middle = np.array([[limit, 0], [0, limit]], "<u2"), limit // 2
    number = pb.PixelFormat.Value(f"PIXEL_FORMAT_BAYER_RG{bits}")
    assert raw_to_rgb(raw(number, top))[0, 0].tolist() == [255, 0, 255]
    grey = raw_to_rgb(raw(number, np.full((4, 6), middle, "<u2")))
    assert (grey == round(middle * 255 / limit)).all()
    value = round(0.6 * limit / 255)  # would be 1 alone, and then the mean with 0 as well
    assert raw_to_rgb(raw(number, np.array([[0, 0], [value, 0]], "<u2")))[0, 0, 1] == 0


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
        ({"width": 1, "pixel_format": pb.PIXEL_FORMAT_BAYER_GB8}, "frame.raw.width: found 1, expected at least 2"),
        (
            {"width": 5, "pixel_format": pb.PIXEL_FORMAT_YUV422_UYVY},
            "frame.raw.width: found 5, expected an even number",
        ),
        ({"pixel_format": pb.PIXEL_FORMAT_MONO12P}, "found 24 bytes, expected 36 for 6 x 4 MONO12P, stride 9"),
        (
            {"data": b"\xff" * 48, "pixel_format": pb.PIXEL_FORMAT_BAYER_RG10},
            "found a sample of 65535, expected at most 1023 in 6 x 4 BAYER_RG10",
        ),
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
