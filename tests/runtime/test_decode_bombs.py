"""Small files that take long to decode: they are refused, and hold up nobody meanwhile."""

import io
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from agvas_runtime.errors import InputError
from agvas_runtime.frames import MOST_SCANS, decode_image
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
