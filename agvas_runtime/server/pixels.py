"""Raw frames as they come over the wire -> RGB arrays. Encoded images are `frames.py`'s."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import MAX_PIXELS
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb


@dataclass(frozen=True)
class _Layout:
    """How one pixel of a format is stored."""

    channels: int
    bits: int
    """Nominal depth of a sample; above 8 it lies in the low bits of 16, little-endian."""
    reverse: bool = False
    """Blue first."""

    @property
    def pixel_bytes(self) -> int:
        return self.channels * (1 if self.bits == 8 else 2)


LAYOUTS = {
    pb.PIXEL_FORMAT_MONO8: _Layout(1, 8),
    pb.PIXEL_FORMAT_MONO10: _Layout(1, 10),
    pb.PIXEL_FORMAT_MONO12: _Layout(1, 12),
    pb.PIXEL_FORMAT_MONO16: _Layout(1, 16),
    pb.PIXEL_FORMAT_RGB8: _Layout(3, 8),
    pb.PIXEL_FORMAT_BGR8: _Layout(3, 8, reverse=True),
}


def format_name(number: int) -> str:
    """A pixel format as people write it: `MONO16`; a number that the protocol does not know stays a number."""
    names = {value: name for name, value in pb.PixelFormat.items()}
    return names[number].removeprefix("PIXEL_FORMAT_") if number in names else str(number)


def raw_to_rgb(raw: pb.RawImage, apart: memoryview | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The frame as RGB, uint8 [H, W, 3]; deeper samples are scaled by the format's nominal depth.

    `apart` stands for `raw.data` where that is not in the message.

    Raises:
        InputError: format, size, stride and data do not fit together, or a sample exceeds the format's depth.
    """
    layout = LAYOUTS.get(raw.pixel_format)
    if layout is None:
        supported = ", ".join(format_name(number) for number in LAYOUTS)
        raise InputError(f"frame.raw.pixel_format: found {format_name(raw.pixel_format)}, expected one of {supported}")
    rows = _rows(raw, apart, layout, max_pixels)
    if layout.bits == 8:
        pixels = rows.reshape(raw.height, raw.width, layout.channels)
        return np.ascontiguousarray(pixels[..., ::-1]) if layout.reverse else _as_rgb(pixels)
    samples = np.ascontiguousarray(rows).view("<u2")
    limit = (1 << layout.bits) - 1
    largest = int(samples.max())
    if largest > limit:
        raise InputError(f"frame.raw.data: found a sample of {largest}, expected at most {limit} in {_named(raw)}")
    scaled = (samples.astype(np.uint32) * 255 + limit // 2) // limit
    return _as_rgb(scaled.astype(np.uint8)[..., None])


def _rows(raw: pb.RawImage, apart: memoryview | None, layout: _Layout, max_pixels: int) -> NDArray[np.uint8]:
    """The bytes of the frame without the padding, uint8 [H, W * pixel_bytes]; raises InputError."""
    for name, value in (("width", raw.width), ("height", raw.height)):
        if value == 0:
            raise InputError(f"frame.raw.{name}: found 0, expected at least 1")
    if raw.width * raw.height > max_pixels:
        found, limit = f"{raw.width} x {raw.height} pixels", f"{max_pixels / 10**6:g} megapixels"
        raise InputError(f"frame.raw: found {found}, expected at most {limit}")
    packed = raw.width * layout.pixel_bytes
    stride = raw.stride or packed
    if stride < packed:
        raise InputError(f"frame.raw.stride: found {stride}, expected at least {packed} bytes for {_named(raw)}")
    content = raw.data if apart is None else apart  # each access of the field copies it
    least, most, size = stride * (raw.height - 1) + packed, stride * raw.height, len(content)
    if not least <= size <= most:
        expected = f"{most}" if least == most else f"{least} to {most}"
        raise InputError(f"frame.raw.data: found {size} bytes, expected {expected} for {_named(raw)}, stride {stride}")
    data = np.frombuffer(content, np.uint8)
    return np.lib.stride_tricks.as_strided(data, (raw.height, packed), (stride, 1), writeable=False)


def _named(raw: pb.RawImage) -> str:
    return f"{raw.width} x {raw.height} {format_name(raw.pixel_format)}"


def _as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [H, W, 1 or 3] as a contiguous [H, W, 3]."""
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
