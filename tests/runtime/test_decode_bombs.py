"""Small files that take long to decode: they are refused, and hold up nobody meanwhile."""

import io
import struct
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from agvas_runtime.errors import InputError
from agvas_runtime.frames import MOST_EXIF, MOST_LISTED, MOST_SCANS, decode_image
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import requests
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.recipes import RecipeBook
from agvas_runtime.server.requests import Intake, read_settings

START_OF_SCAN, END = b"\xff\xda", b"\xff\xd9"
RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def jpeg(scans: int, **options: object) -> bytes:
    """A JPEG file whose last scan is repeated until there are so many."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    last = data[data.rindex(START_OF_SCAN) : -len(END)]
    assert data.endswith(END)
    return data[: -len(END)] + last * (scans - data.count(START_OF_SCAN)) + END


def tiff_of(data: bytes) -> bytes:
    """A TIFF whose one strip is that JPEG file."""
    height, width, _ = RGB.shape
    data += b"\0" * (len(data) % 2)
    tags = {256: width, 257: height, 258: 8, 259: 7, 262: 6, 273: 8, 277: 3, 278: height, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


KINDS = {1: "B", 3: "H", 4: "I"}
"""Of a TIFF's values."""


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes = b"", order: str = "<", big: bool = False) -> bytes:
    """A TIFF or BigTIFF file: `data` behind its 8 or 16 bytes of head, long values, tags of some kind and values."""
    mark = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    start, offset, count = (16, "Q", "Q") if big else (8, "I", "H")
    body, entries = data + b"\0" * (len(data) % 2), b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{KINDS[kind]}", *values)
        room = struct.calcsize(order + offset)
        if len(packed) > room:
            place, body = start + len(body), body + packed + b"\0" * (len(packed) % 2)
            packed = struct.pack(order + offset, place)
        entries += struct.pack(f"{order}HH{offset}", tag, kind, len(values)) + packed.ljust(room, b"\0")
    head = mark + (struct.pack(f"{order}HH", 8, 0) if big else b"") + struct.pack(order + offset, start + len(body))
    return head + body + struct.pack(order + count, len(tags)) + entries + bytes(8)


def grey(width: int, height: int, compression: int = 1) -> dict[int, tuple[int, list[int]]]:
    """Tags of a TIFF of 8 bits without its strips or tiles."""
    sizes = {256: (4, [width]), 257: (4, [height])}
    return {**sizes, 258: (3, [8]), 259: (3, [compression]), 262: (3, [1]), 277: (3, [1])}


def tiled(width: int, height: int, tile_width: int, tile_height: int) -> bytes:
    """A TIFF of compressed tiles, all of which are the same data."""
    packed, count = zlib.compress(bytes(256)), 4
    where = {324: (4, [8] * count), 325: (4, [len(packed)] * count)}
    return tiff({**grey(width, height, 8), 322: (4, [tile_width]), 323: (4, [tile_height]), **where}, packed)


def test_a_jpeg_of_more_scans_than_any_needs_is_refused_before_decoding():
    assert decode_image(jpeg(MOST_SCANS, progressive=True)).shape == RGB.shape
    text = f"^frame.encoded: found a JPEG file of {MOST_SCANS + 1} scans, expected at most {MOST_SCANS}$"
    with pytest.raises(InputError, match=text):
        decode_image(jpeg(MOST_SCANS + 1, progressive=True), "frame.encoded")


def test_fill_bytes_in_front_of_its_markers_hide_no_scan():
    data = jpeg(MOST_SCANS + 1, progressive=True).replace(START_OF_SCAN, b"\xff\xff" + START_OF_SCAN)
    with pytest.raises(InputError, match=f"found a JPEG file of {MOST_SCANS + 1} scans"):
        decode_image(data)


def test_what_a_camera_puts_behind_the_image_is_no_scan():
    film = START_OF_SCAN * 2 * MOST_SCANS + np.random.default_rng(1).bytes(1 << 20)
    np.testing.assert_array_equal(decode_image(jpeg(1) + film), decode_image(jpeg(1)))


@pytest.mark.parametrize("scans", [MOST_SCANS // 2, 100 * MOST_SCANS])
def test_a_jpeg_within_a_tiff_is_bounded_by_libtiff(scans, capfd):
    data = tiff_of(jpeg(scans, progressive=True))
    if scans < MOST_SCANS:
        assert decode_image(data).shape == RGB.shape
        return
    with pytest.raises(InputError, match="damaged image"):
        decode_image(data)
    assert "exceeds maximum scans" in capfd.readouterr().err


@pytest.mark.parametrize("tag", [273, 279, 324, 325])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_of_more_strips_or_tiles_than_any_needs_is_refused_before_decoding(tag, order, big):
    data = tiff({**grey(1, 1), tag: (1, [0] * (MOST_LISTED + 1))}, order=order, big=big)
    text = f"^x: found a TIFF file with a list of {MOST_LISTED + 1} values, expected at most {MOST_LISTED}$"
    with pytest.raises(InputError, match=text):
        decode_image(data, "x")


def test_a_tiff_of_as_many_strips_as_there_may_be_is_read():
    strips = {273: (4, [*range(8, 8 + MOST_LISTED)]), 278: (3, [1]), 279: (3, [1] * MOST_LISTED)}
    image = decode_image(tiff({**grey(1, MOST_LISTED), **strips}, b"\x07" * MOST_LISTED))
    assert image.shape == (MOST_LISTED, 1, 3)
    assert (image == 7).all()


@pytest.mark.parametrize("kind", [3, 4])
def test_a_list_of_numbers_may_not_be_long_whatever_its_tag_is(kind):
    data = tiff({**grey(1, 1), 700: (kind, [9] * (MOST_LISTED + 1)), 273: (4, [8]), 279: (4, [1])}, b"\0")
    with pytest.raises(InputError, match=f"a list of {MOST_LISTED + 1} values"):
        decode_image(data)


def test_more_tags_than_any_file_needs_are_refused():
    data = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 1 << 40)
    with pytest.raises(InputError, match=f"a list of {1 << 40} values"):
        decode_image(data)


def test_a_bigtiff_that_pil_and_libtiff_read_differently_is_refused():
    with pytest.raises(InputError, match=r"^x: found a big-endian BigTIFF file, expected a little-endian one or"):
        decode_image(tiff({**grey(1, 1), 273: (4, [16]), 279: (4, [1])}, b"\0", order=">", big=True), "x")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_a_tiff_s_head_points_to_need_not_be_there(order):
    whole = tiff({**grey(1, 1), 273: (4, [8]), 279: (4, [1])}, b"\x07", order=order)
    assert (decode_image(whole) == 7).all()
    for cut in range(4, whole.index(struct.pack(f"{order}H", 277))):
        with pytest.raises(InputError, match=r"^x: (truncated|damaged)[^\n]*$"):
            decode_image(whole[:cut], "x")


def test_long_lists_in_a_tiff_s_exif_are_not_unpacked():
    """Nothing but its orientation is asked for."""
    numbers = 1 << 18
    exif = struct.pack("<HHHIII", 1, 0x9214, 3, numbers, 8 + 18, 0) + struct.pack("<H", 300) * numbers
    strip = {273: (4, [8]), 279: (4, [1])}
    data = tiff({**grey(1, 1), **strip, 274: (3, [1]), 34665: (4, [8])}, exif)
    decode_image(data)  # what is imported at first
    tracemalloc.start()
    try:
        assert decode_image(data).shape == (1, 1, 3)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data)
    finally:
        tracemalloc.stop()


def test_a_long_list_for_an_orientation_is_none():
    numbers = 1 << 20
    exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 274, 3, numbers, 26, 0) + struct.pack("<H", 300) * numbers
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(decode_image(data), RGB)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    finally:
        tracemalloc.stop()


def test_a_jpeg_of_more_exif_than_any_needs_is_refused_before_decoding():
    block, data = b"\xff\xe1\x00\x08Exif\0\0", jpeg(1)
    assert decode_image(data[:2] + block * MOST_EXIF + data[2:]).shape == RGB.shape
    with pytest.raises(InputError, match=r"^x: found a JPEG file of 17 EXIF blocks, expected at most 16$"):
        decode_image(data[:2] + block * (MOST_EXIF + 1) + data[2:], "x")


def test_compressed_tiles_that_hold_no_more_than_the_image_are_read():
    np.testing.assert_array_equal(decode_image(tiled(32, 32, 16, 16)), np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("size", "tile", "text"),
    [
        ((1, 1), (26_000, 26_000), "found a TIFF file whose tiles hold 676000000 pixels, expected at most 200 mega"),
        ((50_000_000, 1), (16, 16), "found a TIFF file whose tiles hold 800000000 pixels"),
        ((1, 1), (65_552, 16), "found a TIFF tile's side of 65552, expected 1 to 65536 pixels"),
        ((1, 1), (16, 0), "found a TIFF tile's side of 0"),
    ],
)
def test_tiles_that_are_far_larger_than_their_image_are_refused_before_decoding(size, tile, text):
    with pytest.raises(InputError, match=f"^x: {text}"):
        decode_image(tiled(*size, *tile), "x")


@pytest.mark.parametrize(("compression", "bits"), [(1, 8), (2, 4)])
def test_a_bmp_of_run_lengths_is_refused_before_decoding(compression, bits):
    palette, runs = bytes(4) + b"\xff" * 4, b"\x04\x00\x00\x01"
    header = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, bits, compression, len(runs), 0, 0, 2, 0)
    start = 14 + len(header + palette)
    data = b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs
    with pytest.raises(InputError, match=r"^x: found a BMP file of run lengths, expected one without compression$"):
        decode_image(data, "x")


def test_a_raw_frame_does_not_wait_for_encoded_ones(monkeypatch):
    begun, go_on = threading.Semaphore(0), threading.Event()

    def slow(*arguments: object) -> np.ndarray:
        begun.release()
        assert go_on.wait(30)
        return RGB

    monkeypatch.setattr(requests, "decode_image", slow)
    monkeypatch.setattr(requests.os, "cpu_count", lambda: 2)
    arena = Arena(1 << 20)
    intake, settings = Intake(RecipeBook(None), arena, 10**6), read_settings(pb.SegmentRequest(), Mode.DIRECT)
    raw = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, width=64, height=48, data=RGB.tobytes())
    with ThreadPoolExecutor(3) as threads:
        encoded = [threads.submit(intake.place, pb.Frame(encoded=b"x"), None, settings) for _ in range(2)]
        for _ in encoded:
            assert begun.acquire(timeout=30)  # every decoder is busy
        try:
            block, _ = threads.submit(intake.place, pb.Frame(raw=raw), None, settings).result(timeout=10)
            np.testing.assert_array_equal(block.image, RGB)
        finally:
            go_on.set()
        for each in (block, *(future.result()[0] for future in encoded)):
            each.release()
    arena.close()
