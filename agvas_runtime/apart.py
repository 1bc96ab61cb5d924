"""Requests with their pixels beside them, as they are before they are sent and after they were received: protobuf would
copy them two or three times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

Kind = TypeVar("Kind", bound=Message)

METHODS = "/agvas.v1.Inspection/"
"""What the names of the calls begin with, by which whoever sends or receives these requests asks gRPC for them."""
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protobuf; the others are not in use any more."""
OF_SEGMENT = (
    pb.SegmentRequest.FRAME_FIELD_NUMBER,
    pb.Frame.RAW_FIELD_NUMBER,
    pb.RawImage.DATA_FIELD_NUMBER,
)
OF_INSPECT = (pb.InspectRequest.FRAME_FIELD_NUMBER, *OF_SEGMENT)
OF_SCAN = (pb.ScanRequest.ROWS_FIELD_NUMBER, pb.RowBlock.DATA_FIELD_NUMBER)
"""Where the pixels are, field by field."""
ENCODED_OF_SEGMENT = (pb.SegmentRequest.FRAME_FIELD_NUMBER, pb.Frame.ENCODED_FIELD_NUMBER)
ENCODED_OF_INSPECT = (pb.InspectRequest.FRAME_FIELD_NUMBER, *ENCODED_OF_SEGMENT)
"""Where an image file is."""


@dataclass(frozen=True)
class Apart(Generic[Kind]):
    """A request whose pixels are beside it."""

    message: Kind
    """Without `raw.data` where `pixels` is given."""
    pixels: memoryview | None = None
    """The bytes of `raw.data`; None where they are in the message, or there is no raw frame."""


def joined(message: Message, path: tuple[int, ...], content: memoryview) -> bytes:
    """A message as it is sent, with these bytes as the field at the path's end, which it does not have yet.

    They are copied once.
    """
    return b"".join(_with(memoryview(message.SerializeToString()), path, content))


class _Unusual(Exception):
    """Protobuf allows it, but no client writes it: protobuf's own decoder is to decide."""


def decoder(kind: type[Kind], path: tuple[int, ...]) -> Callable[[bytes], Apart[Kind]]:
    """What decodes messages of a kind; it raises protobuf's DecodeError."""

    def decode(data: bytes) -> Apart[Kind]:
        view = memoryview(data)
        try:
            rest, pixels = _split(view, path)
        except (_Unusual, IndexError):
            rest, pixels = data, None
        return Apart(kind.FromString(rest), pixels)

    return decode


def _with(message: memoryview, path: tuple[int, ...], content: memoryview) -> list[bytes | memoryview]:
    """The parts of a message with such a field."""
    if len(path) == 1:
        return [message, _head(path[0], len(content)), content]
    begin, start, end = _field(message, path[0]) or (len(message),) * 3
    inner = _with(message[start:end], path[1:], content)
    return [message[:begin], _head(path[0], sum(map(len, inner))), *inner, message[end:]]


def _split(message: memoryview, path: tuple[int, ...]) -> tuple[bytes, memoryview | None]:
    """A message without the field at the path's end, and that field's bytes."""
    if (here := _field(message, path[0])) is None:
        return bytes(message), None
    begin, start, end = here
    if len(path) == 1:
        return b"".join((message[:begin], message[end:])), message[start:end]
    inner, found = _split(message[start:end], path[1:])
    if found is None:
        return bytes(message), None
    return b"".join((message[:begin], _head(path[0], len(inner)), inner, message[end:])), found


def _field(message: memoryview, number: int) -> tuple[int, int, int] | None:
    """Where a field of bytes or a message begins, its content begins, and it ends; None where it is not there."""
    here = None
    at, size = 0, len(message)
    while at < size:
        begin = at
        tag, at = _varint(message, at)
        start, end = _content(message, tag & 7, at)
        if end > size:
            raise _Unusual
        if tag >> 3 == number and tag & 7 == LENGTH:
            if here is not None:  # protobuf would merge the two
                raise _Unusual
            here = begin, start, end
        at = end
    return here


def _head(number: int, length: int) -> bytes:
    """What stands before a field of so many bytes."""
    return _varint_bytes(number << 3 | LENGTH) + _varint_bytes(length)


def _content(message: memoryview, kind: int, at: int) -> tuple[int, int]:
    """Where a field's content begins and ends, which may be behind the message's end."""
    if kind == LENGTH:
        length, at = _varint(message, at)
        return at, at + length
    if kind == VARINT:
        return at, _varint(message, at)[1]
    if kind == EIGHT_BYTES:
        return at, at + 8
    if kind == FOUR_BYTES:
        return at, at + 4
    raise _Unusual


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and where the next thing begins; raises IndexError behind the message's end."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 28:  # larger than any frame, or padded
            raise _Unusual


def _varint_bytes(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
