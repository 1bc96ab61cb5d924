"""Raw frames as they come over the wire -> RGB arrays. Encoded images: `frames.py`; colour filters: `bayer.py`."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.cpu import LARGE_PIXELS
from agvas_runtime.errors import InputError
from agvas_runtime.frames import MAX_PIXELS, as_rgb
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.bayer import Pattern, demosaic

BAND_PIXELS, LEAST_ROWS, BESIDE_ROWS = 1 << 17, 16, 2
"""Pixels that are converted at once, so that all that lies between stays in a core's cache, and how many rows at least;
rows before and behind them that a colour filter's are converted with. Bands have even rows, as such a filter has."""
Kind = Literal["plain", "bits", "packed", "bayer", "yuv"]


@dataclass(frozen=True)
class Layout:
    """How the pixels of a format are stored."""

    channels: int
    bits: int
    """Nominal depth of a sample; above 8 it lies in the low bits of 16, little-endian, unless samples are packed."""
    reverse: bool = False
    """Blue first."""
    kind: Kind = "plain"
    """`bits`: bit after bit, as in GenICam's Mono12p; `packed`: as in GigE Vision's Mono12Packed."""
    pattern: Pattern = "RG"
    """Of `bayer`: the first two colours of the first row."""
    luma: int = 0
    """Of `yuv`: the byte of the first brightness."""

    @property
    def limit(self) -> int:
        """The largest value that a sample may have."""
        return (1 << self.bits) - 1

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of so many pixels."""
        if self.kind == "bits":
            return -(-width * self.bits // 8)
        if self.kind == "packed":
            return -(-width * 3 // 2)
        if self.kind == "yuv":
            return width * 2
        return width * self.channels * (1 if self.bits == 8 else 2)


LAYOUTS = {
    pb.PIXEL_FORMAT_MONO8: Layout(1, 8),
    pb.PIXEL_FORMAT_MONO10: Layout(1, 10),
    pb.PIXEL_FORMAT_MONO12: Layout(1, 12),
    pb.PIXEL_FORMAT_MONO16: Layout(1, 16),
    pb.PIXEL_FORMAT_RGB8: Layout(3, 8),
    pb.PIXEL_FORMAT_BGR8: Layout(3, 8, reverse=True),
    pb.PIXEL_FORMAT_MONO10P: Layout(1, 10, kind="bits"),
    pb.PIXEL_FORMAT_MONO12P: Layout(1, 12, kind="bits"),
    pb.PIXEL_FORMAT_MONO10_PACKED: Layout(1, 10, kind="packed"),
    pb.PIXEL_FORMAT_MONO12_PACKED: Layout(1, 12, kind="packed"),
    **{
        pb.PixelFormat.Value(f"PIXEL_FORMAT_BAYER_{pattern}{bits}"): Layout(1, bits, kind="bayer", pattern=pattern)
        for bits in (8, 10, 12, 16)
        for pattern in ("RG", "GR", "GB", "BG")
    },
    pb.PIXEL_FORMAT_YUV422_UYVY: Layout(3, 8, kind="yuv", luma=1),
    pb.PIXEL_FORMAT_YUV422_YUYV: Layout(3, 8, kind="yuv", luma=0),
    pb.PIXEL_FORMAT_RGBA8: Layout(4, 8),
    pb.PIXEL_FORMAT_BGRA8: Layout(4, 8, reverse=True),
}


def format_name(number: int) -> str:
    """A pixel format as people write it: `MONO16`; a number that the protocol does not know stays a number."""
    names = {value: name for name, value in pb.PixelFormat.items()}
    return names[number].removeprefix("PIXEL_FORMAT_") if number in names else str(number)


def raw_to_rgb(
    raw: pb.RawImage,
    apart: memoryview | None = None,
    max_pixels: int = MAX_PIXELS,
    hands: Executor | None = None,
) -> NDArray[np.uint8]:
    """The frame as RGB, uint8 [H, W, 3], see `as_rgb`; deeper samples are scaled by the format's nominal depth.

    It may look at the message's own bytes, in whatever order they are.

    `apart` stands for `raw.data` where that is not in the message; `hands` help to convert a large frame.

    Raises:
        InputError: format, size, stride and data do not fit together, or a sample exceeds the format's depth.
    """
    layout = LAYOUTS.get(raw.pixel_format)
    if layout is None:
        supported = ", ".join(format_name(number) for number in LAYOUTS)
        raise InputError(f"frame.raw.pixel_format: found {format_name(raw.pixel_format)}, expected one of {supported}")
    rows = _rows(raw, apart, layout, max_pixels)
    if layout.bits == 8 and layout.kind == "plain":
        if layout.channels == 1:
            return as_rgb(rows)
        pixels = rows.reshape(raw.height, raw.width, layout.channels)[..., :3]
        return pixels[..., ::-1] if layout.reverse else pixels
    if layout.kind in ("plain", "bayer") and layout.bits not in (8, 16):
        limit, largest = layout.limit, int(_samples(rows, layout, raw.width).max())
        if largest > limit:
            raise InputError(f"frame.raw.data: found a sample of {largest}, expected at most {limit} in {_named(raw)}")
    coloured, beside = layout.kind in ("bayer", "yuv"), BESIDE_ROWS if layout.kind == "bayer" else 0
    out = np.empty((raw.height, raw.width, 3) if coloured else (raw.height, raw.width), np.uint8)
    step = max(BAND_PIXELS // raw.width // 2 * 2, LEAST_ROWS)

    def convert(top: int) -> None:
        first = max(top - beside, 0)
        band = _converted(rows[first : top + step + beside], layout, raw.width)
        out[top : top + step] = band[top - first :][:step]

    helped = hands is not None and raw.width * raw.height >= LARGE_PIXELS
    list((hands.map if hands and helped else map)(convert, range(0, raw.height, step)))
    return out if coloured else as_rgb(out)


def _converted(rows: NDArray[np.uint8], layout: Layout, width: int) -> NDArray[np.uint8]:
    """A band of rows as RGB [H, W, 3] or grey [H, W]. Of a colour filter's, the outermost rows are not as they will be
    beside their neighbours."""
    if layout.kind == "yuv":
        return _from_yuv(rows, layout.luma)
    samples, limit = _samples(rows, layout, width), layout.limit
    if layout.kind == "bayer":
        return demosaic(samples, layout.pattern, limit)
    return ((samples.astype(np.uint32) * 255 + limit // 2) // limit).astype(np.uint8)


def _rows(raw: pb.RawImage, apart: memoryview | None, layout: Layout, max_pixels: int) -> NDArray[np.uint8]:
    """The bytes of the frame without the padding, uint8 [H, row_bytes]; raises InputError."""
    least_side = 2 if layout.kind == "bayer" else 1
    for name, value in (("width", raw.width), ("height", raw.height)):
        if value < least_side:
            raise InputError(f"frame.raw.{name}: found {value}, expected at least {least_side}")
    if layout.kind == "yuv" and raw.width % 2:
        raise InputError(f"frame.raw.width: found {raw.width}, expected an even number for {_named(raw)}")
    if raw.width * raw.height > max_pixels:
        found, limit = f"{raw.width} x {raw.height} pixels", f"{max_pixels / 10**6:g} megapixels"
        raise InputError(f"frame.raw: found {found}, expected at most {limit}")
    packed = layout.row_bytes(raw.width)
    stride = raw.stride or packed
    if stride < packed:
        raise InputError(f"frame.raw.stride: found {stride}, expected at least {packed} bytes for {_named(raw)}")
    content = raw.data if apart is None else apart  # each access of the field copies it
    least, most, size = stride * (raw.height - 1) + packed, stride * raw.height, len(content)
    if not least <= size <= most:
        expected = f"{most}" if least == most else f"{least} to {most}"
        raise InputError(f"frame.raw.data: found {size} bytes, expected {expected} for {_named(raw)}, stride {stride}")
    data = np.frombuffer(content, np.uint8)
    if stride == packed:
        return data.reshape(raw.height, packed)
    return np.lib.stride_tricks.as_strided(data, (raw.height, packed), (stride, 1), writeable=False)


def _samples(rows: NDArray[np.uint8], layout: Layout, width: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The samples of one channel, [H, W]."""
    if layout.kind == "bits":
        return _unpacked(rows, layout.bits, width)
    if layout.kind == "packed":
        return _unpacked_gige(rows, layout.bits - 8, width)
    return rows if layout.bits == 8 else np.ascontiguousarray(rows).view("<u2")


def _unpacked(rows: NDArray[np.uint8], bits: int, width: int) -> NDArray[np.uint16]:
    """Samples of 10 or 12 bits that follow each other bit by bit, the lowest first, uint16 [H, W]."""
    samples = np.empty((rows.shape[0], width), np.uint16)
    apart = 8 // np.gcd(8, bits)  # so many pixels on, a sample begins with a byte's same bit
    for first in range(min(apart, width)):
        byte, shift = divmod(first * bits, 8)
        step = apart * bits // 8
        low, high = rows[:, byte::step], rows[:, byte + 1 :: step]
        target = samples[:, first::apart]
        count = target.shape[1]
        target[:] = high[:, :count]
        target <<= 8
        target |= low[:, :count]
        target >>= shift
    samples &= (1 << bits) - 1
    return samples


def _unpacked_gige(rows: NDArray[np.uint8], low_bits: int, width: int) -> NDArray[np.uint16]:
    """Samples of which two have their upper 8 bits around a byte with the `low_bits` lowest of both, uint16 [H, W]."""
    samples = np.empty((rows.shape[0], width), np.uint16)
    mask = (1 << low_bits) - 1
    shared = rows[:, 1::3]
    samples[:, ::2] = rows[:, ::3]
    samples[:, 1::2] = rows[:, 2::3]
    samples <<= low_bits
    samples[:, ::2] |= shared & mask
    samples[:, 1::2] |= (shared[:, : width // 2] >> 4) & mask
    return samples


def _from_yuv(rows: NDArray[np.uint8], luma: int) -> NDArray[np.uint8]:
    """UYVY (`luma` 1) or YUYV (0), uint8 [H, 2 W] -> RGB: ITU-R BT.601 at full range, the inverse of JPEG's own."""
    height, width = rows.shape[0], rows.shape[1] // 2
    y = rows[:, luma::2].astype(np.float32).reshape(height, width // 2, 2)
    u = rows[:, 1 - luma :: 4, None].astype(np.float32) - 128
    v = rows[:, 3 - luma :: 4, None].astype(np.float32) - 128
    rgb = np.empty((height, width, 3), np.uint8)
    for channel, colour in enumerate((1.402 * v, -0.344136 * u - 0.714136 * v, 1.772 * u)):
        mixed = y + colour
        np.rint(np.clip(mixed, 0, 255, out=mixed), out=mixed)
        rgb[..., channel] = mixed.reshape(height, width)
    return rgb


def _named(raw: pb.RawImage) -> str:
    return f"{raw.width} x {raw.height} {format_name(raw.pixel_format)}"
