"""The tensors of a reply of the protocol: those that were asked for, in the reply or in the caller's memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from agvas_runtime.errors import InputError, NotFound
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.engine.arena import Block
from agvas_runtime.server.kserve.model import NAME, OUTPUTS, VERSION, names
from agvas_runtime.server.kserve.parameters import MEMORY, Find, memory_of, shown
from agvas_runtime.server.kserve.regions import Region
from agvas_runtime.server.kserve.wire import Content

NOT_HERE = ("classification",)
"""Parameters of outputs that clients may send and that no output has; others are passed over."""


@dataclass(frozen=True)
class Wanted:
    """An output that was asked for."""

    name: str
    place: tuple[Region, int, int] | None = None
    """Region, offset and size of where it is to be written, if not into the reply."""


def read_wanted(asked: oi.ModelInferRequest, find: Find) -> list[Wanted]:
    """What was asked for, all outputs where nothing was. Raises InputError, and what `find` raises."""
    wanted: list[Wanted] = []
    for output in asked.outputs:
        if output.name not in OUTPUTS:
            raise InputError(f"model {NAME}: found output {shown(output.name)}, expected {names(OUTPUTS)}")
        if any(each.name == output.name for each in wanted):
            raise _output_error(output.name, "found twice, expected once")
        if here := [name for name in NOT_HERE if name in output.parameters]:
            raise _output_error(output.name, f"found {here[0]}, which no output of this model has, expected none")
        try:
            wanted.append(Wanted(output.name, memory_of(output.parameters, find)))
        except NotFound:
            raise
        except InputError as error:
            raise _output_error(output.name, str(error)) from None
    return wanted or [Wanted(name) for name in OUTPUTS]


def reply_of(
    asked: oi.ModelInferRequest, wanted: list[Wanted], block: Block, reply: pb.SegmentResponse
) -> tuple[oi.ModelInferResponse, list[Content]]:
    """A reply and the raw contents that belong to it, which are for as long as the block is.

    Args:
        asked: what is answered.
        wanted: what of it is made.
        block: has the mask and, where it is wanted, the map.
        reply: everything else that is known.

    Raises InputError where an output does not fit into its memory.
    """
    head = oi.ModelInferResponse(model_name=NAME, model_version=VERSION, id=asked.id)
    contents: list[Content] = []
    for each in wanted:
        tensor = OUTPUTS[each.name]
        content = _CONTENTS[each.name](block, reply)
        shape = (block.height, block.width) if len(tensor.shape) == 2 else tensor.shape
        output = head.outputs.add(name=each.name, datatype=tensor.datatype, shape=shape)
        if each.place is None:
            contents.append(content)
            continue
        contents.append(b"")  # clients count the raw contents by their outputs
        _write(each, content)
        region, offset, _ = each.place
        for name, value in zip(MEMORY, (region.name, offset, len(content)), strict=True):
            parameter = output.parameters[name]
            if isinstance(value, str):
                parameter.string_param = value
            else:
                parameter.int64_param = value
    _add_parameters(head, reply)
    return head, contents


def _write(wanted: Wanted, content: Content) -> None:
    assert wanted.place is not None
    region, offset, size = wanted.place
    needed = len(content)
    if needed > size:
        raise _output_error(wanted.name, f"found {size} bytes of shared memory, expected {needed}")
    try:
        region.write(offset, content)
    except InputError as error:
        raise _output_error(wanted.name, str(error)) from None


def _add_parameters(head: oi.ModelInferResponse, reply: pb.SegmentResponse) -> None:
    """What a reply tells beside its tensors."""
    texts = {"gate": pb.Gate.Name(reply.gate).removeprefix("GATE_"), "reason": reply.reason}
    for name, text in {**texts, "recipe": reply.recipe_name, "bundle_sha256": reply.model.bundle_sha256}.items():
        head.parameters[name].string_param = text
    head.parameters["defect_area_px"].int64_param = reply.defect_area_px
    head.parameters["regions"].int64_param = len(reply.regions)
    for timing in reply.timings:
        head.parameters[f"{timing.stage}_ms"].double_param = timing.ms


def _output_error(name: str, text: str) -> InputError:
    return InputError(f"model {NAME}, output {name}: {text}")


def _element(text: str) -> bytes:
    """A tensor of one element of BYTES."""
    content = text.encode()
    return len(content).to_bytes(4, "little") + content


_CONTENTS: Mapping[str, Callable[[Block, pb.SegmentResponse], Content]] = {
    "MASK": lambda block, reply: block.mask.view(np.uint8).data.cast("B"),
    "PROBABILITY": lambda block, reply: block.probability.data.cast("B"),
    "VERDICT": lambda block, reply: _element(pb.Verdict.Name(reply.verdict).removeprefix("VERDICT_")),
    "SCORE": lambda block, reply: struct.pack("<f", reply.scores.anomaly),
    "ANSWER": lambda block, reply: _element(reply.answer),
}
