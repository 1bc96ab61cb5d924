"""What goes along with a request of the protocol by name: settings of its frame, and where a tensor lies in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError, NotFound
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.kserve.model import NAME
from agvas_runtime.server.kserve.regions import Region

PARAMETERS: Mapping[str, str] = {
    "recipe": "recipe_name",
    "camera_id": "frame.identity.camera_id",
    "part_id": "frame.identity.part_id",
    "trigger_id": "frame.identity.trigger_id",
    "mode": "mode",
    "normal_look": "normal_look",
    "deadline_ms": "deadline_ms",
    "threshold": "recipe.threshold",
    "alpha": "recipe.alpha",
    "min_area_px": "recipe.min_area_px",
    "min_score": "recipe.min_score",
    "on_no_answer": "recipe.on_no_answer",
    "max_new_tokens": "decoding.max_new_tokens",
    "strict_below": "decoding.strict_below",
}
"""What a request's parameters set in a SegmentRequest."""
PASSED_OVER = ("sequence_", "priority", "binary_data", "triton_", "headers_", "content_type")
"""Beginnings of parameters that clients send by themselves and that say nothing here."""
PIXEL_FORMATS = {"RGB8": pb.PIXEL_FORMAT_RGB8, "BGR8": pb.PIXEL_FORMAT_BGR8}
MEMORY = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
_NAMED = {
    "frame.encoded": "input IMAGE",
    "frame.raw": "input FRAME",
    "instruction": "input INSTRUCTION",
    "class_name": "input CLASS_NAME",
    **{path: f"parameter {name}" for name, path in PARAMETERS.items()},
}
"""How the fields of a SegmentRequest are called here."""

Find = Callable[[str], Region]
"""The caller's region of this name; raises NotFound, Denied."""


@contextmanager
def named() -> Iterator[None]:
    """Have errors name the model's tensors and parameters instead of the fields of a SegmentRequest."""
    try:
        yield
    except NotFound:
        raise
    except InputError as error:
        field, colon, text = str(error).partition(": ")
        if not colon or field not in _NAMED:
            raise
        raise InputError(f"model {NAME}, {_NAMED[field]}: {text}") from None


def read_parameters(asked: oi.ModelInferRequest, request: pb.SegmentRequest) -> pb.PixelFormat:
    """Put a request's parameters where they belong; gives the pixel format of colours. Raises InputError."""
    colours, timeout_ms = pb.PIXEL_FORMAT_RGB8, math.inf
    for name, value in asked.parameters.items():
        found = _value(value)
        if name == "timeout":  # microseconds, as Triton's clients send it; 0 for none
            timeout_us = _number(name, found)
            timeout_ms = timeout_us / 1000 if timeout_us > 0 else math.inf
        elif name == "pixel_format":
            if found not in PIXEL_FORMATS:
                raise _wrong(name, found, " or ".join(PIXEL_FORMATS))
            colours = PIXEL_FORMATS[str(found)]
        elif name in PARAMETERS:
            _put(request, name, found)
        elif not name.startswith(PASSED_OVER):
            known = ", ".join([*PARAMETERS, "pixel_format", "timeout"])
            raise InputError(f"model {NAME}: found parameter {shown(name)}, expected one of {known}")
    if timeout_ms < (request.deadline_ms if request.HasField("deadline_ms") else math.inf):
        request.deadline_ms = timeout_ms
    return colours


def memory_of(parameters: Mapping[str, oi.InferParameter], find: Find) -> tuple[Region, int, int] | None:
    """The region, offset and size that a tensor's parameters name, if any. Raises InputError."""
    given = {name: _value(parameters[name]) for name in MEMORY if name in parameters}
    if "shared_memory_region" not in given:
        if given:
            raise InputError(f"found {', '.join(given)}, expected shared_memory_region as well")
        return None
    name, offset, size = (given.get(each, 0) for each in MEMORY)
    if not isinstance(name, str) or not isinstance(offset, int) or not isinstance(size, int):
        raise InputError(f"found {list(given.values())} for {', '.join(given)}, expected a string and integers")
    region = find(name)
    region.check(offset, size)
    return region, offset, size


def _put(request: pb.SegmentRequest, name: str, value: object) -> None:
    """Set the field that a parameter stands for; raises InputError."""
    *path, last = PARAMETERS[name].split(".")
    message: Any = request
    for step in path:
        message = getattr(message, step)
    field = message.DESCRIPTOR.fields_by_name[last]
    if field.enum_type is not None:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        known = {each.name.removeprefix(prefix): each.number for each in field.enum_type.values if each.number}
        written = str(value).upper().replace("-", "_")
        if written not in known:
            raise _wrong(name, value, f"one of {', '.join(known)}")
        setattr(message, last, known[written])
        return
    is_text = field.type == FieldDescriptor.TYPE_STRING
    is_whole = field.type in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_INT32)
    expected = "a text" if is_text else "an integer" if is_whole else "a number"
    if isinstance(value, bool) or (is_text and not isinstance(value, str)):
        raise _wrong(name, value, expected)
    try:
        setattr(message, last, value if is_text else int(str(value)) if is_whole else float(str(value)))
    except (TypeError, ValueError):  # a text that is no number, or a number out of the field's range
        raise _wrong(name, value, expected) from None


def _number(name: str, value: object) -> float:
    """A number of any kind, or a string that is one; raises InputError."""
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise _wrong(name, value, "a number")
    return number


def _value(parameter: oi.InferParameter) -> object:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def shown(text: str) -> str:
    """A caller's name for something, fit for a line of text."""
    return repr(one_line(text[:64]))


def _wrong(name: str, value: object, expected: str) -> InputError:
    found = shown(value) if isinstance(value, str) else repr(value)
    return InputError(f"model {NAME}, parameter {name}: found {found}, expected {expected}")
