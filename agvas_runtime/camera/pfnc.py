"""Pixel formats by the names that GenICam cameras give them (PFNC, and what came before it), and frames of them."""

from __future__ import annotations

from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.pixels import LAYOUTS
from agvas_runtime.wire import RawFrame

_BAYER = {f"Bayer{each}{bits}": f"BAYER_{each}{bits}" for bits in (8, 10, 12, 16) for each in ("RG", "GR", "GB", "BG")}
FORMATS = {
    **{f"Mono{bits}": f"MONO{bits}" for bits in (8, 10, 12, 16)},
    "Mono10p": "MONO10P",
    "Mono12p": "MONO12P",
    "Mono10Packed": "MONO10_PACKED",
    "Mono12Packed": "MONO12_PACKED",
    **_BAYER,
    **dict.fromkeys(("RGB8", "RGB8Packed", "RGB8_Packed"), "RGB8"),
    **dict.fromkeys(("BGR8", "BGR8Packed", "BGR8_Packed"), "BGR8"),
    **dict.fromkeys(("RGBa8", "RGBA8Packed"), "RGBA8"),
    **dict.fromkeys(("BGRa8", "BGRA8Packed"), "BGRA8"),
    **dict.fromkeys(("YUV422_8", "YUV422_YUYV_Packed", "YCbCr422_8"), "YUV422_YUYV"),
    **dict.fromkeys(("YUV422_8_UYVY", "YUV422Packed", "YCbCr422_8_CbYCrY"), "YUV422_UYVY"),
}
"""The camera's name to the protocol's."""


def format_of(camera_format: str) -> str:
    """The protocol's name of a camera's pixel format; raises InputError for one that the server does not take."""
    if camera_format not in FORMATS:
        known = ", ".join(name for name in FORMATS if not name.endswith("Packed"))
        raise InputError(f"PixelFormat: found {camera_format}, expected one of {known}; set it with --set PixelFormat=")
    return FORMATS[camera_format]


def raw_frame(data: bytes | memoryview, width: int, height: int, pixel_format: str, padding: int = 0) -> RawFrame:
    """A frame as a camera delivered it.

    Args:
        data: its bytes; what follows the picture (chunk data) may still be behind it.
        width: pixels.
        height: pixels.
        pixel_format: by the protocol's name.
        padding: bytes behind every row.
    """
    row = LAYOUTS[pb.PixelFormat.Value(f"PIXEL_FORMAT_{pixel_format}")].row_bytes(width)
    return RawFrame(data[: (row + padding) * height], width, height, pixel_format, row + padding if padding else 0)
