"""What a client asks about its frames: only what is said is sent, the rest is left to the server's recipe."""

from __future__ import annotations

from typing import Literal, TypedDict, get_args

from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.verdict import Recipe
from agvas_runtime.wire import decoding_to, recipe_to
from agvas_runtime.writer import Decoding

MaskChoice = Literal["png", "packed_bits", "none", "coco_rle", "polygons"]
ProbabilityChoice = Literal["none", "float32", "png16", "float16"]


class Asked(TypedDict, total=False):
    """What may be asked about a frame. What is left out, or None, is the server's recipe's, or the default."""

    mode: Mode | None
    """What the model is asked for; direct where neither says it, in `explain` explain."""
    class_name: str | None
    """What to look for, put into the mode's instruction."""
    normal_look: str | None
    """A sentence on the normal look of the object, for describe-plus."""
    decoding: Decoding | None
    """How the answer is written; only the fields that were set are sent."""
    recipe: Recipe | None
    """When a region counts as a defect; only the fields that were set are sent."""
    recipe_name: str | None
    """One of the server's recipes; the camera's own where None, if it has one."""
    deadline_ms: float | None
    """From the frame's arrival; one that still waits then is not computed any more."""
    mask: MaskChoice | None
    """How the mask travels: packed_bits where it is left out. It arrives as an array in any case but "none"."""
    probability: ProbabilityChoice | None
    """How the probability map travels, if at all; "png16" rounds it to 1/65535, "float16" to 11 bits."""


def request_of(instruction: str | None, asked: Asked) -> pb.SegmentRequest:
    """The message without a frame. Raises InputError naming what makes no sense whatever the recipe says."""
    if unknown := [name for name in asked if name not in Asked.__annotations__]:
        hint = "; did you mean recipe=Recipe(...)" if unknown[0] in Recipe.model_fields else ""
        hint = "; did you mean decoding=Decoding(...)" if unknown[0] in Decoding.model_fields else hint
        raise InputError(f"found the argument {unknown[0]}, expected {', '.join(Asked.__annotations__)}{hint}")
    mode, class_name, normal_look = asked.get("mode"), asked.get("class_name"), asked.get("normal_look")
    for field, text in (("instruction", instruction), ("class_name", class_name), ("normal_look", normal_look)):
        if text == "":  # the message has no place for one
            raise InputError(f"{field}: found a blank text, expected words")
    if mode is not None:
        Request(mode, instruction, class_name, normal_look).check()
    try:
        request = pb.SegmentRequest(
            mode=pb.MODE_UNSPECIFIED if mode is None else pb.Mode.Value(f"MODE_{Mode(mode).name}"),
            instruction=instruction or "",
            class_name=class_name or "",
            normal_look=normal_look or "",
            recipe_name=asked.get("recipe_name") or "",
            deadline_ms=asked.get("deadline_ms"),
        )
    except UnicodeEncodeError as error:
        raise InputError(f"instruction, names: found {error.object!a}, expected readable text") from None
    mask, probability = asked.get("mask", "packed_bits"), asked.get("probability")
    for field, found, choices in (("mask", mask, MaskChoice), ("probability", probability, ProbabilityChoice)):
        if found is not None and found not in get_args(choices):
            raise InputError(f"{field}: found {found!r}, expected {', '.join(get_args(choices))}")
    if mask is not None:
        request.mask_format = pb.MaskFormat.Value(f"MASK_FORMAT_{mask.upper()}")
    if probability is not None:
        request.probability_format = pb.ProbabilityFormat.Value(f"PROBABILITY_FORMAT_{probability.upper()}")
    if (decoding := asked.get("decoding")) is not None:
        request.decoding.CopyFrom(decoding_to(decoding))
    if (recipe := asked.get("recipe")) is not None:
        request.recipe.CopyFrom(recipe_to(recipe))
    return request
