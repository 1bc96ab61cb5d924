"""The tensors of a request of the protocol, wherever they are, put into a request of `Inspection`.

Errors name the input, what was found and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from agvas_runtime.errors import InputError, NotFound
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.kserve.model import INPUTS, NAME, names, shape_text
from agvas_runtime.server.kserve.parameters import Find, memory_of, shown
from agvas_runtime.server.kserve.wire import InferRequest

PIECE = 1 << 16
"""Elements."""

InputTensor = oi.ModelInferRequest.InferInputTensor


def read_tensors(
    asked: InferRequest,
    request: pb.SegmentRequest,
    colours: pb.PixelFormat,
    find: Find,
    *,
    max_pixels: int,
    most_bytes: int,
) -> memoryview | None:
    """Put a request's tensors into a SegmentRequest; gives the pixels of FRAME, if it has that.

    Args:
        asked: what came.
        request: gets everything but raw pixels.
        colours: the pixel format of a FRAME of three channels.
        find: finds shared memory.
        max_pixels: of FRAME.
        most_bytes: of other tensors that lie in shared memory.

    Raises InputError, and what `find` raises.
    """
    seen: set[str] = set()
    raw = iter(asked.raw)
    pixels = None
    for tensor in asked.message.inputs:
        _check_input(tensor, seen)
        if tensor.name == "FRAME":
            _describe(request.frame.raw, tensor, colours, max_pixels)
            size = math.prod(tensor.shape)
            pixels = _content(tensor, raw, find, size)
            if len(pixels) != size:
                shape = shape_text(tensor.shape)
                raise _input_error(tensor, f"found {len(pixels)} bytes, expected {size} for UINT8 {shape}")
            continue
        element = _element(tensor, raw, find, most_bytes)
        if tensor.name == "IMAGE":
            if element:
                request.frame.encoded = bytes(element)
        elif element:
            setattr(request, tensor.name.lower(), _text(tensor, element))
    if (left := sum(1 for _ in raw)) > 0:
        raise InputError(f"raw_input_contents: found {left} more than there are inputs, expected one an input")
    if pixels is not None and request.frame.WhichOneof("content") == "encoded":
        raise InputError(f"model {NAME}: found inputs FRAME and IMAGE, expected one of them")
    if request.frame.WhichOneof("content") is None:
        given = ", ".join(sorted(seen)) or "none"
        raise InputError(f"model {NAME}: found inputs {given}, expected FRAME or IMAGE")
    return pixels


def _check_input(tensor: InputTensor, seen: set[str]) -> None:
    """Raise InputError for an input that the model does not have, or not so."""
    if tensor.name not in INPUTS:
        raise InputError(f"model {NAME}: found input {shown(tensor.name)}, expected {names(INPUTS)}")
    if tensor.name in seen:
        raise _input_error(tensor, "found twice, expected once")
    seen.add(tensor.name)
    expected = INPUTS[tensor.name]
    if tensor.datatype != expected.datatype:
        raise _input_error(tensor, f"found datatype {shown(tensor.datatype)}, expected {expected.datatype}")


def _describe(raw: pb.RawImage, tensor: InputTensor, colours: pb.PixelFormat, max_pixels: int) -> None:
    """Say of a raw image what FRAME's shape says; raises InputError."""
    shape = tuple(tensor.shape)
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)) or min(shape) < 1:
        one = "; a request holds one frame" if len(shape) == 4 else ""
        raise _input_error(tensor, f"found shape {shape_text(shape)}, expected [H,W,3] or [H,W]{one}")
    height, width = shape[:2]
    if height * width > max_pixels:
        raise _input_error(
            tensor, f"found shape {shape_text(shape)}, expected at most {max_pixels / 10**6:g} megapixels"
        )
    raw.height, raw.width = height, width
    raw.pixel_format = colours if len(shape) == 3 else pb.PIXEL_FORMAT_MONO8


def _content(tensor: InputTensor, raw: Iterator[memoryview], find: Find, most: int) -> memoryview:
    """The bytes of FRAME, wherever they are; raises InputError."""
    shared = _shared(tensor, find, most)
    if shared is not None:
        return shared
    if not tensor.HasField("contents"):
        return _next(tensor, raw)
    _check_kind(tensor, "uint_contents")
    listed = tensor.contents.uint_contents
    try:  # in pieces, so that other threads have their turns
        return memoryview(b"".join(bytes(listed[at : at + PIECE]) for at in range(0, len(listed), PIECE)))
    except ValueError:
        raise _input_error(tensor, "found a number above 255, expected UINT8") from None


def _element(tensor: InputTensor, raw: Iterator[memoryview], find: Find, most: int) -> memoryview:
    """The one element of a tensor of BYTES; raises InputError."""
    if math.prod(tensor.shape) != 1 or any(size != 1 for size in tensor.shape):
        raise _input_error(tensor, f"found shape {shape_text(tensor.shape)}, expected [1]")
    content = _shared(tensor, find, most)
    if content is None and tensor.HasField("contents"):
        _check_kind(tensor, "bytes_contents")
        elements = tensor.contents.bytes_contents
        if len(elements) != 1:
            raise _input_error(tensor, f"found {len(elements)} elements, expected 1")
        return memoryview(elements[0])
    in_memory, content = content is not None, _next(tensor, raw) if content is None else content
    length = int.from_bytes(content[:4], "little")
    # Memory is registered for the longest element; what travels has no bytes too many.
    if len(content) < 4 or length > len(content) - 4 or (not in_memory and length != len(content) - 4):
        found = f"found {len(content)} bytes"
        raise _input_error(tensor, f"{found}, expected the element's length in 4 bytes, little-endian, and the element")
    return content[4 : 4 + length]


def _shared(tensor: InputTensor, find: Find, most: int) -> memoryview | None:
    """What an input has in shared memory, if it has; raises InputError."""
    try:
        place = memory_of(tensor.parameters, find)
        if place is None:
            return None
        region, offset, size = place
        if size > most:
            raise InputError(f"found {size} bytes in shared memory, expected at most {most}")
        return memoryview(region.read(offset, size))
    except NotFound:
        raise
    except InputError as error:
        raise _input_error(tensor, str(error)) from None


def _next(tensor: InputTensor, raw: Iterator[memoryview]) -> memoryview:
    content = next(raw, None)
    if content is None:
        raise _input_error(tensor, "found no content, expected raw_input_contents, contents or shared memory")
    return content


def _check_kind(tensor: InputTensor, expected: str) -> None:
    others = [field.name for field, _ in tensor.contents.ListFields() if field.name != expected]
    if others:
        raise _input_error(tensor, f"found {', '.join(others)}, expected {expected} for {tensor.datatype}")


def _text(tensor: InputTensor, element: memoryview) -> str:
    try:
        return bytes(element).decode()
    except UnicodeDecodeError:
        raise _input_error(tensor, "found bytes that are no UTF-8, expected a text") from None


def _input_error(tensor: InputTensor, text: str) -> InputError:
    return InputError(f"model {NAME}, input {tensor.name}: {text}")
