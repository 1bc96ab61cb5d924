"""What a caller asks for: protocol messages -> request, recipe, decoding, image. The way back is `replies.py`."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from agvas_runtime.errors import InputError
from agvas_runtime.frames import decode_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.pixels import raw_to_rgb
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding

Settings = TypeVar("Settings", bound=BaseModel)

NO_ANSWER_ACTIONS = {
    pb.NO_ANSWER_ACTION_UNSPECIFIED: "reject",
    pb.NO_ANSWER_ACTION_REJECT: "reject",
    pb.NO_ANSWER_ACTION_PASS: "pass",
    pb.NO_ANSWER_ACTION_STOP: "stop",
}
MODES = {pb.Mode.Value(f"MODE_{mode.name}"): mode for mode in Mode}


@dataclass(frozen=True)
class Asked:
    """A request, read and checked; `image` is upright RGB, uint8 [H, W, 3]."""

    request: Request
    recipe: Recipe
    decoding: Decoding
    image: NDArray[np.uint8]


def read_request(message: pb.SegmentRequest, usual: Mode) -> Asked:
    """Read a request, in the usual mode unless it names another; raises InputError naming the field."""
    check_formats(message)
    request, recipe = request_of(message, usual), recipe_of(message)
    return Asked(request, recipe, decoding_of(message), image_of(message.frame))


def check_formats(message: pb.SegmentRequest) -> None:
    """Raise InputError for a format of mask or probability map that the protocol does not know."""
    if message.mask_format not in pb.MaskFormat.values():
        raise InputError(f"mask_format: found {message.mask_format}, expected NONE, PNG or PACKED_BITS")
    if message.probability_format not in pb.ProbabilityFormat.values():
        raise InputError(f"probability_format: found {message.probability_format}, expected NONE, FLOAT32 or PNG16")


def request_of(message: pb.SegmentRequest, usual: Mode) -> Request:
    """What the model is asked; raises InputError naming the field."""
    if message.mode not in MODES and message.mode != pb.MODE_UNSPECIFIED:
        *names, last = (mode.name for mode in Mode)
        raise InputError(f"mode: found {message.mode}, expected {', '.join(names)} or {last}")
    texts = (message.instruction, message.class_name, message.normal_look)
    request = Request(MODES.get(message.mode, usual), *(text or None for text in texts))
    request.check()
    return request


def recipe_of(message: pb.SegmentRequest) -> Recipe:
    """The recipe of a request, with its defaults; raises InputError naming the field."""
    asked = message.recipe
    if asked.on_no_answer not in NO_ANSWER_ACTIONS:
        raise InputError(f"recipe.on_no_answer: found {asked.on_no_answer}, expected REJECT, PASS or STOP")
    values = _present(asked, "min_area_px", "min_score")
    return _settings(Recipe, "recipe", {**values, "on_no_answer": NO_ANSWER_ACTIONS[asked.on_no_answer]})


def decoding_of(message: pb.SegmentRequest) -> Decoding:
    """How the answer is to be written; raises InputError naming the field."""
    values = _present(message.decoding, "max_new_tokens", "temperature", "top_p", "seed", "strict_below")
    return _settings(Decoding, "decoding", {**values, "text": not message.decoding.no_text})


def image_of(frame: pb.Frame) -> NDArray[np.uint8]:
    """The frame as upright RGB, uint8 [H, W, 3]; raises InputError naming the field."""
    content = frame.WhichOneof("content")
    if content == "raw":
        return raw_to_rgb(frame.raw)
    if content == "encoded":
        return decode_image(frame.encoded, "frame.encoded")
    raise InputError("frame.content: found nothing, expected raw or encoded")


def _present(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _settings(kind: type[Settings], field: str, values: dict[str, Any]) -> Settings:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        rule = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{field}.{first['loc'][0]}: found {first['input']}, {rule}") from None
