"""How a line-scan camera's stream is opened, and what one of its messages holds: read and checked. No queues here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.apart import OF_SCAN, Apart, decoder
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.guard import Undecodable
from agvas_runtime.server.lanes import Policy
from agvas_runtime.server.pixels import LAYOUTS, format_name, raw_to_rgb
from agvas_runtime.server.requests import Intake, Settings, check_ids, own_fields
from agvas_runtime.tiling import MOST_SIDE, Tiling
from agvas_runtime.web_regions import LONGEST_DEFECT

Message = Apart[pb.ScanRequest] | Undecodable
FORMATS = {number: format_name(number) for number in LAYOUTS if not format_name(number).startswith("BAYER")}
"""A line has no colour filter of two rows."""
MOST_LONGEST = 1_000_000
POLICIES: dict[int, Policy] = {
    pb.QUEUE_POLICY_UNSPECIFIED: "block",
    pb.QUEUE_POLICY_LATEST: "latest",
    pb.QUEUE_POLICY_BLOCK: "block",
}


@dataclass(frozen=True)
class ScanPlan:
    """How a stream was opened, checked."""

    camera_id: str
    pixel_format: pb.PixelFormat
    width: int
    tiling: Tiling
    mm: tuple[float, float] | None
    """Millimetres of a pixel across the web and of a row along it."""
    policy: Policy
    queue_rows: int
    longest: int
    heartbeat_s: float
    settings: Settings
    """Of every tile; its task asks for the map, its message for no pictures."""


def scan_decoder() -> Callable[[bytes], Message]:
    """What decodes the messages of `Scan`: one that cannot be decoded is a block's failure, not the stream's."""
    decode = decoder(pb.ScanRequest, OF_SCAN)

    def lenient(data: bytes) -> Message:
        try:
            return decode(data)
        except MemoryError:
            raise
        except Exception:
            found = f"found {len(data)} bytes that are no ScanRequest"
            return Undecodable(f"message: {found}, expected its fields in protobuf's encoding")

    return lenient


def read_opening(message: Message | None, intake: Intake, max_pixels: int) -> ScanPlan:
    """The first message of a stream; `max_pixels` are those of a band of tiles. Raises InputError naming the field."""
    if isinstance(message, Undecodable):
        raise InputError(message.reason)
    found = None if message is None else message.message.WhichOneof("event")
    if message is None or found != "open":
        raise InputError(f"event: the first message of a stream opens it: found {found or 'nothing'}, expected open")
    asked = message.message.open
    check_ids(asked, "open")
    if asked.pixel_format not in FORMATS:
        expected = ", ".join(FORMATS.values())
        raise InputError(f"open.pixel_format: found {format_name(asked.pixel_format)}, expected one of {expected}")
    if not 1 <= asked.width <= MOST_SIDE:
        raise InputError(f"open.width: found {asked.width}, expected 1 to {MOST_SIDE} pixels")
    if asked.policy not in POLICIES:
        raise InputError(f"open.policy: found {asked.policy}, expected LATEST or BLOCK")
    if asked.pixel_format in (pb.PIXEL_FORMAT_YUV422_UYVY, pb.PIXEL_FORMAT_YUV422_YUYV) and asked.width % 2:
        raise InputError(f"open.width: found {asked.width}, expected an even number for YUV422")
    tiling = _tiling(asked)
    if asked.width * tiling.height > max_pixels:
        found = f"found {asked.width} pixels in bands of tile_height {tiling.height}"
        raise InputError(f"open.width: {found}, expected at most {max_pixels / 1e6:g} megapixels a band")
    return ScanPlan(
        camera_id=asked.camera_id,
        pixel_format=asked.pixel_format,
        width=asked.width,
        tiling=tiling,
        mm=_mm(asked),
        policy=POLICIES[asked.policy],
        queue_rows=_within(asked, "queue_rows", 4 * tiling.height, tiling.height, max_pixels // asked.width),
        longest=_within(asked, "longest_defect_rows", LONGEST_DEFECT, 1, MOST_LONGEST),
        heartbeat_s=_within(asked, "heartbeat_ms", 1000, 100, 60_000) / 1000,
        settings=_settings(asked, intake),
    )


def rows_of(message: Message, plan: ScanPlan, max_pixels: int) -> NDArray[np.uint8]:
    """The rows of a block as RGB, uint8 [n, W, 3]; n is 0 where it holds none. Raises InputError naming the field."""
    if isinstance(message, Undecodable):
        raise InputError(message.reason)
    event = message.message.WhichOneof("event")
    if event != "rows":
        raise InputError(f"event: found {event or 'nothing'}, expected rows")
    block = message.message.rows
    if not block.height and not block.data and not message.pixels:
        return np.empty((0, plan.width, 3), np.uint8)
    raw = pb.RawImage(
        pixel_format=plan.pixel_format,
        width=plan.width,
        height=block.height,
        stride=block.stride,
        data=block.data if message.pixels is None else b"",
    )
    try:
        return raw_to_rgb(raw, message.pixels, max_pixels)
    except InputError as error:
        raise InputError(str(error).replace("frame.raw", "rows", 1)) from None


def height_of(message: Message) -> int:
    """For how many rows a message stands, whatever is wrong with it."""
    return 0 if isinstance(message, Undecodable) else int(message.message.rows.height)


def encoder_count_of(message: Message) -> int | None:
    """What a block says of its first row."""
    if isinstance(message, Undecodable) or not message.message.rows.HasField("encoder_count"):
        return None
    return int(message.message.rows.encoder_count)


def _tiling(asked: pb.ScanStream) -> Tiling:
    height, width, overlap = (
        getattr(asked, name) if asked.HasField(name) else None for name in ("tile_height", "tile_width", "overlap")
    )
    try:
        return Tiling.of(height, width, overlap)
    except InputError as error:
        raise InputError(f"open.{error}") from None


def _mm(asked: pb.ScanStream) -> tuple[float, float] | None:
    names = ("mm_per_pixel", "mm_per_row")
    given = [name for name in names if asked.HasField(name)]
    if not given:
        return None
    for name in names:
        value = getattr(asked, name)
        if name not in given:
            raise InputError(f"open.{name}: found none beside {given[0]}, expected both or none")
        if not 0 < value < 1e6:  # NaN is not above 0
            raise InputError(f"open.{name}: found {value:g}, expected millimetres above 0, below 1e6")
    return asked.mm_per_pixel, asked.mm_per_row


def _settings(asked: pb.ScanStream, intake: Intake) -> Settings:
    """What is asked about every tile. Raises InputError naming the field."""
    if asked.defaults.HasField("frame"):
        raise InputError("open.defaults.frame: found a frame, expected none")
    maps = pb.SegmentRequest(
        mask_format=pb.MASK_FORMAT_NONE, probability_format=pb.PROBABILITY_FORMAT_FLOAT32
    )  # the engine leaves them in the tile's block
    settings = intake.settings(maps, asked.camera_id, Mode.DIRECT, own_fields(asked.defaults))
    if settings.task.recipe.roi is not None:
        raise InputError("recipe.roi: found one, expected none: a web has no frame that it could lie in")
    if settings.message.HasField("deadline_ms"):
        raise InputError(f"deadline_ms: found {settings.message.deadline_ms:g}, expected none for a web")
    message = pb.SegmentRequest()
    message.CopyFrom(settings.message)
    message.probability_format = pb.PROBABILITY_FORMAT_NONE
    return Settings(settings.task, message, settings.recipe_name)


def _within(asked: pb.ScanStream, field: str, usual: int, least: int, most: int) -> Any:
    if not asked.HasField(field):
        return min(usual, most)
    found = getattr(asked, field)
    if not least <= found <= most:
        raise InputError(f"open.{field}: found {found}, expected {least} to {most}")
    return found
