"""A recipe file: one YAML document with the fields of a request that belong to a product or a camera.

It is read once and checked whole, so that no frame meets a recipe that cannot be used. Ranges stand where the settings
themselves do (`verdict.Recipe`, `writer.Decoding`, `modes.Request`); here are only names and types.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agvas_runtime import strict_yaml
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode, Request, with_normal_look
from agvas_runtime.prompts import MAX_INSTRUCTION_CHARACTERS
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.strict_yaml import shown
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding

MAX_BYTES = 64 << 10
"""Of a recipe file."""

ModeName = Literal["direct", "describe", "describe-plus", "explain", "fine-grained", "conversation", "general"]
Pixels = Annotated[int, Field(lt=1 << 32)]


class RecipeFile(BaseModel):
    """What a recipe may say. What it leaves out is the request's, or the default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    mode: ModeName | None = None
    instruction: str | None = None
    class_name: str | None = None
    normal_look: str | None = None
    threshold: float | None = None
    alpha: float | None = None
    min_area_px: Pixels | None = None
    min_score: float | None = None
    roi: Annotated[list[Pixels], Field(min_length=4, max_length=4)] | None = None
    """[x0, y0, x1, y1] in pixels of the upright frame, x1 and y1 just outside, as in `verdict.Recipe`."""
    on_no_answer: Literal["reject", "pass", "stop"] | None = None
    mask_format: Literal["none", "png", "packed_bits", "coco_rle", "polygons"] | None = None
    probability_format: Literal["none", "float32", "float16", "png16"] | None = None
    no_text: bool | None = None
    max_new_tokens: int | None = None
    strict_below: float | None = None
    deadline_ms: Annotated[float, Field(gt=0, lt=1e9)] | None = None


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe that was checked.

    Attributes:
        sha256: of its file.
        message: what it says, as a request without a frame. Not to be changed: every frame in flight shares it.
        request: what it asks the model by itself, for warming up.
    """

    name: str
    sha256: str
    message: pb.SegmentRequest
    request: Request


def parse(name: str, data: bytes) -> NamedRecipe:
    """Read a recipe from its file's content. Raises InputError naming the field, what was found and expected."""
    said = _said(_content(data))
    request, message = _checked(said)
    message.recipe_name = name
    return NamedRecipe(name, hashlib.sha256(data).hexdigest(), message, request)


def _content(data: bytes) -> dict[str, Any]:
    """The one mapping in the file."""
    content = strict_yaml.load(data, "a recipe", most_bytes=MAX_BYTES)
    if content is None or content == {}:
        raise InputError(f"found nothing, expected at least one of {', '.join(RecipeFile.model_fields)}")
    if not isinstance(content, dict):
        raise InputError(f"found {shown(content)}, expected fields, such as threshold: 0.5")
    return content


def _said(content: dict[str, Any]) -> dict[str, Any]:
    """The fields that are said, of the right types."""
    for name in content:
        if name not in RecipeFile.model_fields:
            close = difflib.get_close_matches(str(name), RecipeFile.model_fields, 1)
            expected = f"{close[0]}?" if close else f"one of {', '.join(RecipeFile.model_fields)}"
            raise InputError(f"found the unknown field {shown(name)}, expected {expected}")
        if content[name] is None:
            raise InputError(f"{name}: found nothing, expected a value, or no such line")
    return _build(RecipeFile, content).model_dump(exclude_none=True)


def _checked(said: dict[str, Any]) -> tuple[Request, pb.SegmentRequest]:
    """The request and the message of what is said; raises InputError naming the field."""
    request = Request(said.get("mode", Mode.DIRECT), *map(said.get, ("instruction", "class_name", "normal_look")))
    request.check()
    if request.instruction is not None and request.normal_look is not None:
        length = len(with_normal_look(request.normal_look, request.instruction))
        if length > MAX_INSTRUCTION_CHARACTERS:
            found = f"found {length} characters together"
            raise InputError(f"normal_look and instruction: {found}, expected at most {MAX_INSTRUCTION_CHARACTERS}")
    recipe = _only(said, "threshold", "alpha", "min_area_px", "min_score", "on_no_answer", "roi")
    _build(Recipe, recipe | ({"roi": tuple(recipe["roi"])} if "roi" in recipe else {}))
    decoding = _only(said, "max_new_tokens", "strict_below")
    _build(Decoding, decoding)
    return request, _message(said, recipe, decoding | _only(said, "no_text"))


def _message(said: dict[str, Any], recipe: dict[str, Any], decoding: dict[str, Any]) -> pb.SegmentRequest:
    message = pb.SegmentRequest(**_only(said, "instruction", "class_name", "normal_look", "deadline_ms"))
    if "mode" in said:
        message.mode = pb.Mode.Value(f"MODE_{Mode(said['mode']).name}")
    if "mask_format" in said:
        message.mask_format = pb.MaskFormat.Value(f"MASK_FORMAT_{said['mask_format'].upper()}")
    if "probability_format" in said:
        name = f"PROBABILITY_FORMAT_{said['probability_format'].upper()}"
        message.probability_format = pb.ProbabilityFormat.Value(name)
    if decoding:
        message.decoding.CopyFrom(pb.Decoding(**decoding))
    if recipe:
        values = dict(recipe)
        if "on_no_answer" in values:
            values["on_no_answer"] = pb.NoAnswerAction.Value(f"NO_ANSWER_ACTION_{values['on_no_answer'].upper()}")
        if "roi" in values:
            values["roi"] = pb.Box(**dict(zip(("x0", "y0", "x1", "y1"), values["roi"], strict=True)))
        message.recipe.CopyFrom(pb.Recipe(**values))
    return message


def _build(kind: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        rule = first["msg"][:1].lower() + first["msg"][1:]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: found {shown(first['input'])}, {rule}") from None


def _only(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: said[name] for name in names if name in said}
