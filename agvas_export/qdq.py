"""Explicit Q/DQ for TensorRT: 8-bit products with constant matrices, their scales from a calibration set.

TensorRT reads precision from the graph: QuantizeLinear + DequantizeLinear before a product's activation, an 8-bit
initialiser + DequantizeLinear in place of its weight. ONNX Runtime's `quantize_static` does not serve for this: it
loads and copies the whole model (several times 2.5 GB here), and its float8 scales come from standard deviations
(CalibrationMethod.Distribution is its only way), not from the largest value. Attention's own products, norms and
everything without a constant matrix stay as they are. All scales are initialisers that float16 holds
exactly, named `<activation>.scale` and `<weight>.int8.scale` or `<weight>.fp8.scale`; zero points are 0. Typing in half
precision comes after this pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from agvas_export.observe import observe
from agvas_export.quantize import add_initializer

Kind = Literal["int8", "fp8"]

SMALLEST_STEP = float(np.finfo(np.float16).smallest_normal)
"""Below it float16 has fewer digits, and at last none."""

OLDEST = {"int8": 13, "fp8": 19}
"""Opset with scales by channel, and with float8."""

LARGEST = {"int8": 127.0, "fp8": 448.0}
"""What the largest |x| becomes: int8 is used symmetrically, fp8 is e4m3fn."""

PICTURE_CHANNELS = 6
"""A convolution of so many channels or fewer reads the picture itself: RGB, and its contrast in three more."""
FP8_CHANNELS_ABOVE, FP8_KERNEL_UP_TO = 16, 32
"""TensorRT has fp8 kernels for convolutions of more channels, in and out, and of kernels of so many places."""


def activations(model: ir.Model, kind: Kind = "int8", *, head: int | None = None) -> list[str]:
    """Names of the activation inputs of every product that `add_qdq` of the same kind and head would quantise.

    Those of int8 are all that any kind needs.
    """
    return list(dict.fromkeys(str(node.inputs[0].name) for node, _ in _targets(model, kind, head)))


def collect_ranges(path: Path, tensors: Iterable[str], feeds: Iterable[Mapping[str, NDArray]]) -> dict[str, float]:
    """The largest |x| of tensors of a graph, over all feeds, by running it in ONNX Runtime on the CPU.

    Args:
        path: ONNX file; external data beside it is read where it lies, so models over 2 GB work.
        tensors: names of float tensors, see `activations`.
        feeds: inputs by name, one run each. At least one.

    Raises:
        ValueError: no feeds, or a tensor that is not finite.
    """
    names = list(tensors)
    runs = list(observe(path, names, _largest, feeds))
    if not runs:
        raise ValueError("no feeds to take ranges from")
    ranges = dict(zip(names, np.asarray(runs, np.float64).max(axis=0).tolist(), strict=True))
    if unbounded := [name for name, value in ranges.items() if not np.isfinite(value)]:
        raise ValueError(f"{path.name}: {unbounded[0]} is not finite in the calibration set")
    return ranges


def add_qdq(model: ir.Model, ranges: Mapping[str, float], kind: Kind, *, head: int | None = None) -> ir.Model:
    """Quantise every MatMul, Gemm and Conv with a constant float32 weight: activations by tensor, weights by channel.

    Convolutions that read the picture itself stay as they are: they cost little, and one scale for all pictures leaves
    a dark one few steps. So do, in fp8, those that TensorRT has no kernels for.

    Args:
        model: float32; is left as it was.
        ranges: largest |x| of every name in `activations(model, kind, head=head)`.
        kind: int8 or fp8 (e4m3fn).
        head: a product with as many output channels is the output head and stays as it is. None: it is quantised too.

    Raises:
        ValueError: a range is missing, or the opset is older than these types.
    """
    opset = model.graph.opset_imports[""]
    if opset < OLDEST[kind]:
        raise ValueError(f"opset {opset}: must be {OLDEST[kind]} or later for {kind}")
    made = model.clone()
    rounded: dict[ir.Value, ir.Value] = {}
    for node, axis in _targets(made, kind, head):
        activation, weight = node.inputs[0], node.inputs[1]
        if activation not in rounded:
            if activation.name not in ranges:
                raise ValueError(f"no range for {activation.name}, which {node.name} reads")
            step = _step(np.asarray(ranges[activation.name]), kind)
            zero = _quantized(np.zeros((), np.float32), kind)
            scale = add_initializer(made, f"{activation.name}.scale", np.asarray(step))
            ends = [scale, add_initializer(made, f"{kind}.zero", zero)]
            quantize = ir.node("QuantizeLinear", [activation, *ends], name=f"{activation.name}.quantize")
            dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *ends], name=f"{activation.name}.dequantize")
            made.graph.insert_before(node, [quantize, dequantize])
            rounded[activation] = _standing_for(dequantize, activation)
        if weight not in rounded:
            values = weight.const_value.numpy()
            others = tuple(other for other in range(values.ndim) if other != axis)
            largest = np.abs(values).max(axis=others, keepdims=True).astype(np.float32)
            step = _step(largest, kind)
            whole = add_initializer(made, f"{weight.name}.{kind}", _quantized(values / step, kind))
            scale = add_initializer(made, f"{weight.name}.{kind}.scale", step.reshape(-1))
            dequantize = ir.node("DequantizeLinear", [whole, scale], {"axis": axis}, name=f"{weight.name}.dequantize")
            made.graph.insert_before(node, dequantize)
            rounded[weight] = _standing_for(dequantize, weight)
        node.replace_input_with(0, rounded[activation])
        node.replace_input_with(1, rounded[weight])
    RemoveUnusedNodesPass()(made)  # and the float weights, which nothing uses any more
    return made


def _largest(name: str, result: str) -> list[onnx.NodeProto]:
    """x -> its largest |x|."""
    return [
        onnx.helper.make_node("Abs", [name], [f"{result}.abs"]),
        onnx.helper.make_node("ReduceMax", [f"{result}.abs"], [result], keepdims=0),
    ]


def _targets(model: ir.Model, kind: Kind, head: int | None) -> Iterator[tuple[ir.Node, int]]:
    """What a kind quantises: products with a constant float32 weight, each with the axis of the weight's channels."""
    for node in list(model.graph):
        if node.domain or node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        weight = node.inputs[1]
        if weight is None or not weight.is_initializer() or weight.dtype != ir.DataType.FLOAT:
            continue
        if node.op_type != "Conv" and len(weight.shape) != 2:  # SAM's tables of relative positions are attention's own
            continue
        if node.op_type == "Conv" and (_reads_the_picture(node) or (kind == "fp8" and not _fp8_runs(node))):
            continue
        if node.op_type == "Conv" or (node.op_type == "Gemm" and node.attributes.get_int("transB", 0)):
            axis = 0
        else:
            axis = len(weight.shape) - 1
        if node.op_type == "Conv" or weight.shape[axis] != head:
            yield node, axis


def _reads_the_picture(conv: ir.Node) -> bool:
    return int(conv.inputs[1].shape[1]) * conv.attributes.get_int("group", 1) <= PICTURE_CHANNELS


def _fp8_runs(conv: ir.Node) -> bool:
    """Whether TensorRT has an fp8 kernel for a convolution; a strongly typed network takes no other instead."""
    outputs, inputs, *kernel = conv.inputs[1].shape.numpy()
    few = min(outputs, inputs) <= FP8_CHANNELS_ABOVE or conv.attributes.get_int("group", 1) > 1
    return not few and prod(kernel) <= FP8_KERNEL_UP_TO


def _step(largest: NDArray, kind: Kind) -> NDArray:
    """The scale, float32, of values up to `largest`: one that float16 holds exactly, since typing makes it half."""
    step = np.where(largest > 0, largest / LARGEST[kind], 1.0).astype(np.float32)
    return np.maximum(step, SMALLEST_STEP).astype(np.float16).astype(np.float32)


def _quantized(values: NDArray, kind: Kind) -> NDArray:
    """Scaled values to the nearest of int8 or float8e4m3fn, clipped to their symmetric range."""
    clipped = values.clip(-LARGEST[kind], LARGEST[kind])
    return np.rint(clipped).astype(np.int8) if kind == "int8" else clipped.astype(ml_dtypes.float8_e4m3fn)


def _standing_for(node: ir.Node, like: ir.Value) -> ir.Value:
    """The node's output as the float value that it stands for."""
    value = node.outputs[0]
    value.name, value.dtype, value.shape = f"{node.name}d", ir.DataType.FLOAT, like.shape
    return value
