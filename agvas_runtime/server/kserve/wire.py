"""Requests and replies as bytes: tensors are megabytes, and protobuf would copy each of them several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agvas_runtime.errors import InputError
from agvas_runtime.proto.inference import open_inference_pb2 as oi

VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protobuf that are in use."""
MOST_FIELDS = 256
MOST_BESIDE_BYTES = 8 << 20
"""Of a request without its raw tensors. Protobuf makes ten times as much of some messages, or more."""
RAW_INPUT = oi.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER
RAW_OUTPUT = oi.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
STREAMED = oi.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER

Content = bytes | memoryview
"""A tensor's bytes; one dimension of them."""


@dataclass(frozen=True)
class InferRequest:
    """A request whose raw tensors are beside it."""

    message: oi.ModelInferRequest
    """Without `raw_input_contents`."""
    raw: tuple[memoryview, ...]


def decode(data: bytes) -> InferRequest:
    """Read a request.

    Raises InputError for one of too many parts; ValueError, IndexError and protobuf's DecodeError for what is none.
    """
    rest, raw = _apart(memoryview(data))
    if len(rest) > MOST_BESIDE_BYTES:
        found = f"found {len(rest)} bytes beside raw_input_contents, expected at most {MOST_BESIDE_BYTES}"
        raise InputError(f"message: {found}; large tensors belong there, or into shared memory")
    return InferRequest(oi.ModelInferRequest.FromString(rest), tuple(raw))


def encode(head: oi.ModelInferResponse, contents: Sequence[Content], *, streamed: bool = False) -> bytes:
    """A reply with its raw tensors, each copied once; where `streamed`, inside the message of a stream."""
    parts: list[Content] = [head.SerializeToString()]
    for content in contents:
        parts += [_tag(RAW_OUTPUT, len(content)), content]
    if streamed:
        parts.insert(0, _tag(STREAMED, sum(len(part) for part in parts)))
    return b"".join(parts)


def _apart(message: memoryview) -> tuple[bytes, list[memoryview]]:
    """A request without its raw tensors, and those."""
    at, rest, raw = 0, list[memoryview](), list[memoryview]()
    while at < len(message):
        if len(rest) + len(raw) == MOST_FIELDS:
            raise InputError(f"message: found more than {MOST_FIELDS} fields, expected fewer")
        begin = at
        tag, at = _varint(message, at)
        start, at = _content(message, tag & 7, at)
        if at > len(message):
            raise ValueError
        if tag == RAW_INPUT << 3 | LENGTH:
            raw.append(message[start:at])
        else:
            rest.append(message[begin:at])
    return b"".join(rest), raw


def _content(message: memoryview, kind: int, at: int) -> tuple[int, int]:
    """Where a field's content begins and ends, which may be behind the message's end."""
    if kind == LENGTH:
        size, at = _varint(message, at)
        return at, at + size
    if kind == VARINT:
        ends = (place + 1 for place in range(at, at + 10) if message[place] < 0x80)
        return at, next(ends, len(message) + 1)
    if kind in (EIGHT_BYTES, FOUR_BYTES):
        return at, at + (8 if kind == EIGHT_BYTES else 4)
    raise ValueError


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to 35 bits, more than any request has bytes, and where the next thing begins."""
    value = 0
    for shift in (0, 7, 14, 21, 28):
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError


def _tag(number: int, size: int) -> bytes:
    """What stands before the content of a field."""
    encoded, rest = bytearray([number << 3 | LENGTH]), size
    while rest >= 0x80:
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded)
