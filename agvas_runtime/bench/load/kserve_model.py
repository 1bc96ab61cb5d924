"""A model behind the Open Inference Protocol: which one is asked, with which tensors, and what its reply tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agvas_runtime.bench.load.pictures import Picture
from agvas_runtime.errors import InputError
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.kserve import model as ours

Metadata = oi.ModelMetadataResponse
Tensor = oi.ModelMetadataResponse.TensorMetadata

RAW, ENCODED = "UINT8", "BYTES"
OUR_INPUTS = {RAW: "FRAME", ENCODED: "IMAGE"}
"""Taken where a model has several inputs of the datatype, one of them of this name: ours, or like ours."""
ENGINE_MS = "ENGINE_MS"
USUAL = ("MASK", ENGINE_MS)
"""Outputs that are asked for where a model has them: what an inspection is for, and the engine's own time."""
_FLOATS = {"FP64": "<f8", "FP32": "<f4"}


def choose_model(listed: Sequence[str]) -> str:
    """The only model of a server, or ours among several. Raises InputError."""
    names = sorted(set(listed))
    if ours.NAME in names:
        return ours.NAME
    if len(names) != 1:
        raise InputError(
            f"--model: found none, expected one of the server's models: {', '.join(names) or 'it has none'}"
        )
    return names[0]


def choose_input(metadata: Metadata, encoded: bool, wanted: str | None) -> Tensor:
    """The input that takes the frame: the one that is wanted, or the only one of its datatype. Raises InputError."""
    datatype = ENCODED if encoded else RAW
    fitting: dict[str, Tensor] = {each.name: each for each in metadata.inputs if each.datatype == datatype}
    shown = ", ".join(f"{each.name} {each.datatype}" for each in metadata.inputs) or "none"
    if wanted is not None:
        if wanted not in fitting:
            raise InputError(
                f"--input: found {wanted!r}, expected an input of {datatype} of model {metadata.name}: {shown}"
            )
        return fitting[wanted]
    if OUR_INPUTS[datatype] in fitting:
        return fitting[OUR_INPUTS[datatype]]
    if len(fitting) != 1:
        found = f"found {len(fitting)} inputs of {datatype}, expected one, or --input NAME"
        raise InputError(f"model {metadata.name}: {found}: {shown}")
    return next(iter(fitting.values()))


def choose_outputs(metadata: Metadata, wanted: Sequence[str]) -> list[str]:
    """The outputs that are wanted; else those of `USUAL` that the model has, or all. Raises InputError."""
    known = [each.name for each in metadata.outputs]
    if unknown := [name for name in wanted if name not in known]:
        found = f"found {unknown[0]!r}, expected outputs of model {metadata.name}: {', '.join(known) or 'it has none'}"
        raise InputError(f"--output: {found}")
    return list(wanted) or [name for name in USUAL if name in known] or known


def infer_request(
    metadata: Metadata, tensor: Tensor, outputs: Sequence[str], picture: Picture, deadline_ms: float | None
) -> oi.ModelInferRequest:
    """A request for one frame. Raises InputError where the input takes no frame of this size.

    The deadline goes along as `timeout`, in microseconds, which Triton's own clients send.
    """
    request = oi.ModelInferRequest(model_name=metadata.name)
    if deadline_ms is not None:
        request.parameters["timeout"].int64_param = max(round(deadline_ms * 1000), 1)
    request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=_shape(metadata.name, tensor, picture))
    for name in outputs:
        request.outputs.add(name=name)
    length = len(picture.data).to_bytes(4, "little") if picture.encoded else b""
    request.raw_input_contents.append(length + picture.data)
    return request


def engine_ms_of(reply: oi.ModelInferResponse) -> float | None:
    """The engine's own time for this frame, from an output ENGINE_MS or our own timings without decoding, if any."""
    for place, output in enumerate(reply.outputs):
        if output.name == ENGINE_MS and output.datatype in _FLOATS:
            if place < len(reply.raw_output_contents):
                return float(np.frombuffer(reply.raw_output_contents[place], _FLOATS[output.datatype], 1)[0])
            listed = output.contents.fp64_contents or output.contents.fp32_contents
            return float(listed[0]) if listed else None
    if "total_ms" in reply.parameters and "decode_ms" in reply.parameters:
        return float(reply.parameters["total_ms"].double_param - reply.parameters["decode_ms"].double_param)
    return None


def _shape(model: str, tensor: Tensor, picture: Picture) -> list[int]:
    """The frame's shape, with a batch of one where the model has a dimension for it."""
    frame = [1] if picture.encoded else [picture.height, picture.width, 3]
    shape = [1] * (len(tensor.shape) - len(frame)) + frame
    expected = list(tensor.shape)
    if len(shape) != len(expected) or any(size not in (-1, found) for size, found in zip(expected, shape, strict=True)):
        fits = "an encoded image" if picture.encoded else f"RGB frames of {picture.height} x {picture.width}"
        raise InputError(
            f"model {model}, input {tensor.name}: found {fits}, {shape}, expected {expected}; --size and --input choose"
        )
    return shape
