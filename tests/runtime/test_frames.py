"""Every kind of image file a line or a lab produces, and every way a file can be broken."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from agvas_runtime.errors import InputError
from agvas_runtime.frames import FORMATS, decode_image, find_images, read_image

RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def encoded(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, fmt, **options)
    return buffer.getvalue()


def tiff(values, width, bits, photometric=1, sample_format=1, order="<"):
    """A TIFF of one strip, written by hand for what PIL cannot write."""
    height = len(values) // width
    if bits == 12:
        digits = "".join(format(value, "012b") for value in values)
        data = int(digits, 2).to_bytes(len(digits) // 8, "big")
    else:
        data = np.asarray(values).astype(f"{order}u{bits // 8}").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(data)), (339, sample_format)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    entries = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return head + data + struct.pack(order + "H", len(tags)) + entries + b"\0" * 4


@pytest.mark.parametrize("fmt", FORMATS)
def test_colour_of_every_format(fmt):
    lossless = {"lossless": True} if fmt == "WEBP" else {}
    got = decode_image(encoded(RGB, fmt, **lossless))
    assert got.dtype == np.uint8
    assert got.shape == RGB.shape
    if fmt != "JPEG":
        np.testing.assert_array_equal(got, RGB)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK"])
def test_every_pixel_mode_becomes_rgb(mode):
    image = Image.fromarray(RGB).convert("P" if mode == "PA" else mode).convert(mode)
    fmt = "TIFF" if mode in ("CMYK", "PA") else "PNG"
    expected = image.convert("RGBA").convert("RGB") if mode in ("P", "PA") else image.convert("RGB")
    np.testing.assert_array_equal(decode_image(encoded(image, fmt)), expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_and_the_colour_kept(mode):
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(0)
    colour = Image.fromarray(RGB).convert(mode[:-1]).convert("RGB")
    np.testing.assert_array_equal(decode_image(encoded(image)), colour)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_a_palette_with_transparency_keeps_its_colours(transparency):
    image = Image.fromarray(RGB).quantize(16)
    data = encoded(image, transparency=transparency)
    np.testing.assert_array_equal(decode_image(data), image.convert("RGB"))


def test_16_bit_grey_is_scaled_by_its_nominal_depth():
    values = np.array([[0, 1, 128, 129], [385, 386, 32768, 65535]], np.uint16)
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    for data in (encoded(values), tiff(values.ravel(), 4, 16), tiff(values.ravel(), 4, 16, order=">")):
        got = decode_image(data)
        assert got.shape == (2, 4, 3)
        np.testing.assert_array_equal(got[:, :, 0], expected)


def test_a_dark_16_bit_frame_is_not_stretched():
    assert decode_image(encoded(np.full((4, 4), 300, np.uint16))).max() == 1


def test_12_bit_grey_fills_the_range_at_4095():
    got = decode_image(tiff([0, 4095, 2048, 8, 16, 1000, 3000, 9], 4, 12))
    np.testing.assert_array_equal(got[:, :, 0].ravel(), [0, 255, 128, 0, 1, 62, 187, 1])


def test_16_bit_grey_whose_zero_is_white_is_turned():
    got = decode_image(tiff([0, 65535, 32768, 1000], 2, 16, photometric=0))
    np.testing.assert_array_equal(got[:, :, 0].ravel(), [255, 0, 127, 251])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(np.ones((3, 3), np.float32), "TIFF"), "32-bit float pixels"),
        (tiff([1, 2, 3, 4], 2, 32), "32-bit integer pixels"),
        (tiff([1, 2, 3, 4], 2, 16, sample_format=2), "16-bit signed pixels"),
    ],
)
def test_pixels_without_a_nominal_range_are_refused(data, reason):
    with pytest.raises(InputError, match=f"^x.tif: {reason}"):
        decode_image(data, "x.tif")


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(fmt, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(RGB, fmt, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode_image(data), upright)


def test_a_broken_exif_block_does_not_refuse_the_image():
    data = encoded(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode_image(data).shape == RGB.shape


def test_of_several_pages_the_first():
    pages = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for fmt, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(pages[0], fmt, save_all=True, append_images=pages[1:], **options)
        assert (decode_image(data) == 10).all()


def test_the_smallest_and_a_large_image():
    assert decode_image(encoded(np.zeros((1, 1, 3), np.uint8))).shape == (1, 1, 3)
    assert decode_image(encoded(np.zeros((3000, 4000, 3), np.uint8), "JPEG")).shape == (3000, 4000, 3)


def png_of_size(width, height):
    """A PNG whose header promises more pixels than follow."""
    tiny = encoded(np.zeros((1, 1), np.uint8))
    chunk = b"IHDR" + struct.pack(">II", width, height) + tiny[24:29]
    return tiny[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + tiny[33:]


def test_more_than_200_megapixels_are_refused_before_decoding():
    with pytest.raises(InputError, match=r"x: 20000 x 20000 pixels are more than the limit of 200 megapixels"):
        decode_image(png_of_size(20000, 20000), "x")


def test_a_long_side_is_refused_before_decoding():
    text = r"^x: found 70000 x 1 pixels, expected at most 65536 along either side$"
    with pytest.raises(InputError, match=text):
        decode_image(png_of_size(70_000, 1), "x", most_side=65_536)
    assert decode_image(encoded(RGB), "x", most_side=40).shape == RGB.shape


def test_pils_own_limit_neither_warns_nor_changes():
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"truncated image"):  # 144 megapixels: PIL alone would warn
        decode_image(png_of_size(12000, 12000))
    assert before == Image.MAX_IMAGE_PIXELS


def test_threads_may_decode_at_once():
    data, got = encoded(RGB), []
    threads = [threading.Thread(target=lambda: got.append(decode_image(data).sum())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [RGB.sum()] * 8


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_file_is_named_truncated(fmt, share):
    data = encoded(RGB, fmt)
    with pytest.raises(InputError, match=r"^x: truncated(, damaged or unsupported)? image \("):
        decode_image(data[: int(len(data) * share)], "x")


def test_a_jpeg_with_a_cut_tail_is_refused():
    data = encoded(RGB, "JPEG")
    for cut in (1, 2, 20):
        with pytest.raises(InputError, match=r"truncated image \("):
            decode_image(data[:-cut])


@pytest.mark.parametrize("fmt", FORMATS)
def test_flipped_bytes_give_an_image_or_one_line(fmt):
    random, data = np.random.default_rng(1), encoded(RGB, fmt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL speaks of odd metadata
        for _ in range(200):
            broken = bytearray(data)
            for _ in range(3):
                broken[random.integers(min(len(data), 400))] = random.integers(256)
            message = ""
            try:
                decode_image(bytes(broken), "x")
            except InputError as error:
                message = str(error)
            assert not message or (message.startswith("x: ") and "\n" not in message)


def test_files_that_are_no_images_say_so(tmp_path):
    text = tmp_path / "x.png"
    text.write_text("this is a text")
    with pytest.raises(InputError) as caught:
        read_image(text)
    assert str(caught.value) == f"{text}: not an image file agvas can read (PNG, JPEG, BMP, TIFF, WebP)"
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match=r"empty.png: the file is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(InputError, match="a folder, not an image file"):
        read_image(tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("x" * 300, "File name too long"), ("a\0b", "null")])
def test_a_name_that_no_file_can_have_is_one_line(name, reason):
    with pytest.raises(InputError, match=reason):
        read_image(name)


def test_find_images_lists_a_folder_in_order(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "c.tiff"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.jpg", "b.PNG", "c.tiff"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_find_images_says_when_there_are_none(tmp_path):
    with pytest.raises(InputError, match="no images in this folder"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        find_images(tmp_path / "nowhere")


def test_find_images_of_a_name_that_no_file_can_have_is_one_line():
    with pytest.raises(InputError, match=r"^x+: (File name too long|no such file or folder)$"):
        find_images("x" * 300)
