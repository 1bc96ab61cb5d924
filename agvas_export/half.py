"""Typed half-precision graphs: every tensor's type stands in the graph, so no builder has to guess where 16 bits hold.

Products, activations and what moves data are float16; norms, softmax, long sums, powers, sines and what computes their
angles, and arithmetic on the image itself stay float32, with casts between. Graph inputs and outputs stay float32, but
for keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from agvas_runtime.plan import HIDDEN

LARGEST_HALF = 65_504.0
F16, F32 = ir.DataType.FLOAT16, ir.DataType.FLOAT

FULL = frozenset(
    {
        *("LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization"),
        *("Softmax", "LogSoftmax", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "CumSum"),
        *("Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Sin", "Cos", "TopK", "ArgMax"),
        "ConstantOfShape",
    }
)
"""Always float32: range or rounding would hurt, or (the last) the type is in the node itself."""
STATISTICS = frozenset({"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Pow", "Sqrt", "Reciprocal"})
"""Of a norm that is written out; the arithmetic behind them belongs to it."""
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})
MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Slice", "Concat", "Gather", "GatherND", "GatherElements", "Expand", "Tile"),
        *("Unsqueeze", "Squeeze", "Split", "Pad", "Identity", "Flatten"),
    }
)
"""They compute nothing, and keep the type that comes in."""
IMAGE = "pixels"
"""Input whose own arithmetic stays float32, before the first product: differences of pixels that are nearly equal."""
HALF_PORTS = ("keys", "values", "past_keys", "past_values")
"""Inputs and outputs that are float16: what is large and goes from one graph to the next as it is."""


def to_half(model: ir.Model, *, softmax_precision: bool = True) -> ir.Model:
    """Give every float32 tensor of a graph its type, in place. Weights are converted when they are written.

    Args:
        softmax_precision: have fused attention compute its softmax in float32, by the attribute for that. TensorRT
            refuses it (it does so anyway).
    """
    graph = model.graph
    full = _full_nodes(graph)
    types: dict[ir.Value, ir.DataType] = dict.fromkeys((*graph.inputs, *graph.initializers.values()), F32)
    for value in graph.inputs:
        if value.name in HALF_PORTS:
            value.type, types[value] = ir.TensorType(F16), F16
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        floats = [index for index, value in enumerate(node.inputs) if value is not None and _is_float(value)]
        if node.op_type == "Resize":
            floats = floats[:1]  # what it is resized by is always float32
        if node.op_type == "Cast":
            _retype(node, F32, types)
            continue
        wanted = F32 if node in full else F16
        if node.op_type in MOVES and floats and all(types[node.inputs[index]] is F32 for index in floats):
            moved = [node.inputs[index] for index in floats]
            wanted = F32 if not any(_is_weight(value) or value.is_graph_input() for value in moved) else wanted
        for index in floats:
            value = node.inputs[index]
            if types[value] is not wanted:
                key = (value, wanted)
                if key not in casts:
                    casts[key] = _converted(graph, node, value, wanted)
                    types[casts[key]] = wanted
                node.replace_input_with(index, casts[key])
        if node.op_type == "Attention" and wanted is F16 and softmax_precision:
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(F32))
        _retype(node, wanted, types)
    _type_outputs(graph, types)
    _drop_unused_weights(graph)
    return model


def _full_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that stay float32."""
    full: set[ir.Node] = set()
    behind: set[ir.Node] = set()  # of a written-out norm
    early: set[ir.Node] = set()  # what is computed of the image alone
    image = {value for value in graph.inputs if value.name == IMAGE}
    for node in graph:
        producers = {value.producer() for value in node.inputs if value is not None} - {None}
        given = [value for value in node.inputs if value is not None and _is_float(value) and not _is_weight(value)]
        of_image = bool(given) and all(value in image or value.producer() in early for value in given)
        if of_image and node.op_type in ARITHMETIC | MOVES | STATISTICS:
            early.add(node)
        if node.op_type in FULL:
            full.add(node)
        if node.op_type in ARITHMETIC and any(p.op_type in STATISTICS or p in behind for p in producers):
            behind.add(node)
    waiting = [node for node in graph if node.op_type in ("Sin", "Cos")]
    while waiting:  # angles reach thousands, and their fractions count
        node = waiting.pop()
        full.add(node)
        waiting += [p for v in node.inputs if v is not None and (p := v.producer()) is not None and p not in full]
    # what feeds the first statistics of a norm: x - mean
    return full | behind | early


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (F32, F16)


def _is_weight(value: ir.Value) -> bool:
    return value.const_value is not None


def _retype(node: ir.Node, wanted: ir.DataType, types: dict[ir.Value, ir.DataType]) -> None:
    for output in node.outputs:
        if _is_float(output):
            output.type, types[output] = ir.TensorType(wanted), wanted  # clones of a graph share their types


def _converted(graph: ir.Graph, before: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
    """The value in another type: a weight is converted once and for all, anything else gets a cast."""
    if _is_weight(value):
        tensor = value.const_value
        name = f"{value.name}_{wanted.name.lower()}"
        lazy = ir.LazyTensor(lambda: _rounded(tensor, wanted, name), wanted, tensor.shape, name=name)
        weight = ir.val(name, wanted, tensor.shape, const_value=lazy)
        graph.register_initializer(weight)
        return weight
    cast = ir.node("Cast", [value], {"to": int(wanted)}, name=f"{value.name}_to_{wanted.name.lower()}")
    cast.outputs[0].name = f"{value.name}_{wanted.name.lower()}"
    cast.outputs[0].dtype, cast.outputs[0].shape = wanted, value.shape
    graph.insert_before(before, cast)
    return cast.outputs[0]


def _rounded(tensor: ir.TensorProtocol, wanted: ir.DataType, name: str) -> ir.Tensor:
    values = tensor.numpy()
    if values.size == 1 and values.item() < -LARGEST_HALF:  # what a mask hides with, where attention is written out
        values = np.full_like(values, HIDDEN)
    with np.errstate(over="ignore"):  # an infinite weight is found by the proof
        return ir.Tensor(values.astype(wanted.numpy()), name=name)


def _type_outputs(graph: ir.Graph, types: dict[ir.Value, ir.DataType]) -> None:
    for index, value in enumerate(graph.outputs):
        wanted = F16 if value.name in HALF_PORTS else F32
        if types.get(value, wanted) is wanted:
            continue
        name = value.name
        value.name = f"{name}_{types[value].name.lower()}"
        cast = ir.node("Cast", [value], {"to": int(wanted)}, name=f"{name}_cast")
        cast.outputs[0].name, cast.outputs[0].dtype, cast.outputs[0].shape = name, wanted, value.shape
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]


def _drop_unused_weights(graph: ir.Graph) -> None:
    outputs = set(graph.outputs)
    for name in [name for name, value in graph.initializers.items() if not value.uses() and value not in outputs]:
        del graph.initializers[name]


def half_tensors(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every float16 tensor that a graph computes, casts included; what only moves data is left out."""
    for node in graph:
        if node.op_type not in MOVES:
            yield from (value for value in node.outputs if value.dtype is F16)
