"""What half precision does to a graph, proved without a GPU.

ONNX Runtime's CPU computes float16 nodes in float32 and rounds nothing in between: an overflowing product comes back
finite there. So the typed graph gets a twin in float32 in which every float16 tensor is rounded as its type demands and
its largest magnitude is noted before that. Scores within a fused attention are noted, not rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from agvas_export.half import F16, F32, MOVES, half_tensors
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.plan import HIDDEN

LARGEST = 30_000.0
"""Where a half tensor may reach at most; float16 ends at 65,504, and other images than the proof's go further."""
MARK = "__"
HIGHEST, LOWEST, ENERGY = (f"{MARK}{end}" for end in ("highest", "lowest", "energy"))
"""End the names of the twin's outputs that hold a tensor's largest and smallest value and its sum of squares."""
MASK_INPUT = "node_bias"

SPLIT = 2.0**13 + 1
"""Dekker's and Veltkamp's constant: what it leaves of a float32 has the 11 significant bits of a float16."""
GRID = 0.75
"""Adding it leaves multiples of 2^-24 below a quarter: float16's denormal numbers (some by one step off)."""


class RoundingTwin:
    """A typed graph with every float16 tensor really rounded, in ONNX Runtime on the CPU.

    Attributes:
        peaks: name of a half tensor to its largest magnitude in all runs so far.
    """

    def __init__(self, path: Path) -> None:
        """Make the twin of the graph at `path`, beside it for as long as it takes to load."""
        model = rounding_twin(ir.load(path))
        twin = path.with_name(f"{path.stem}.twin.onnx")
        try:
            ir.save(model, twin)
            self._engine = OrtEngine(twin, lean=True)
        finally:
            twin.unlink(missing_ok=True)
        self.peaks: dict[str, float] = {}

    @property
    def peak(self) -> tuple[str, float]:
        """The half tensor with the largest magnitude so far, and that; a NaN is larger than any number."""
        name = max(self.peaks, key=lambda each: (np.isnan(self.peaks[each]), self.peaks[each]))
        return name, self.peaks[name]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Input name to tensor, float16 ports in float32 -> output name to array. Raises EngineError."""
        outputs = self._engine.run(feeds)
        for name in [name for name in outputs if name.endswith((HIGHEST, LOWEST, ENERGY))]:
            tensor, end = name.rsplit(MARK, 1)
            value = float(outputs.pop(name))
            if end == "energy":
                value = 0.0 if np.isfinite(value) else np.nan
            # np.maximum keeps a NaN, which no comparison lets pass
            self.peaks[tensor] = float(np.maximum(self.peaks.get(tensor, 0.0), abs(value)))
        return outputs

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Let the session go."""
        self._engine.close()


def rounding_twin(model: ir.Model) -> ir.Model:
    """Turn a typed graph into its twin, in place."""
    graph = model.graph
    rounded = [*(value for value in graph.inputs if value.dtype is F16), *half_tensors(graph)]
    scores = [node for node in graph if node.op_type == "Attention" and node.outputs[0].dtype is F16]
    for weight in [value for value in graph.initializers.values() if value.dtype is F16]:
        _widen_weight(graph, weight)
    for value in graph.inputs:
        if value.dtype is F16:
            value.type = ir.TensorType(F32)
    for node in graph:
        if node.op_type == "Cast" and F16 in (node.outputs[0].dtype, node.attributes["to"].as_int()):
            node.attributes["to"] = ir.AttrInt64("to", int(F32))
        for output in node.outputs:
            if output.dtype is F16:
                output.type = ir.TensorType(F32)
    masks, masked = _masks(graph)
    for node in scores:
        _watch_scores(graph, node)
    for value in rounded:
        if value not in masks:
            _round(graph, value, hidden=value in masked)
    return model


def _masks(graph: ir.Graph) -> tuple[set[ir.Value], set[ir.Value]]:
    """Attention masks, whose hidden places hold a number of ours, and the scores that one was added to."""
    masks = {value for value in graph.inputs if value.name == MASK_INPUT}
    masked: set[ir.Value] = set()
    for node in graph:
        values = [value for value in node.inputs if value is not None]
        if any(_hides(value) for value in values) or (
            node.op_type in (*MOVES, "Cast") and any(value in masks for value in values)
        ):
            masks.update(node.outputs)
        elif node.op_type == "Add" and any(value in masks for value in values):
            masked.update(node.outputs)
    return masks, masked


def _hides(value: ir.Value) -> bool:
    weight = value.producer().inputs[0] if value.producer() and value.producer().op_type == "Cast" else value
    tensor = None if weight is None else weight.const_value
    return tensor is not None and tensor.size == 1 and float(tensor.numpy().item()) <= HIDDEN


def _widen_weight(graph: ir.Graph, weight: ir.Value) -> None:
    """A cast behind a half weight; ONNX Runtime computes it once, when it loads."""
    cast = ir.node("Cast", [weight], {"to": int(F32)})
    cast.outputs[0].name, cast.outputs[0].dtype = f"{weight.name}_wide", F32
    ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
    cast.replace_input_with(0, weight)
    graph.insert_before(graph[0], cast)


def _watch_scores(graph: ir.Graph, node: ir.Node) -> None:
    """Note the largest score of a fused attention: where a backend writes it out, that is a half tensor too."""
    node.resize_outputs(4)
    for number, output in enumerate(node.outputs[1:3], start=1):
        output.name = f"{node.outputs[0].name}_unused{number}"
    scores = node.outputs[3]
    scores.name, scores.dtype = f"{node.outputs[0].name}_scores", F32
    _watch(graph, scores)


def _watch(graph: ir.Graph, value: ir.Value, *, hidden: bool = False) -> None:
    """Add outputs with the largest and the smallest element of a value (magnitudes would need a copy of it).

    Both pass over a NaN in many places; a sum of squares does not, and no numbers of float16's range overflow it.
    Where places are hidden by a mask, the smallest says nothing.
    """
    for operator, end in (("ReduceMax", HIGHEST), ("ReduceMin", LOWEST), ("ReduceSumSquare", ENERGY)):
        if hidden and end == LOWEST:
            continue
        node = ir.node(operator, [value], {"keepdims": 0})
        output = node.outputs[0]
        output.name, output.dtype, output.shape = f"{value.name}{end}", F32, ir.Shape([])
        _insert_behind(graph, value, [node])
        graph.outputs.append(output)


def _round(graph: ir.Graph, value: ir.Value, *, hidden: bool = False) -> None:
    """Round a value as float16 does before anything reads it, and watch what came before."""
    constants = [_constant(graph, "agvas_split", SPLIT), _constant(graph, "agvas_grid", GRID)]
    scaled = ir.node("Mul", [value, constants[0]])
    rest = ir.node("Sub", [scaled.outputs[0], value])
    short = ir.node("Sub", [scaled.outputs[0], rest.outputs[0]])
    up = ir.node("Add", [short.outputs[0], constants[1]])
    down = ir.node("Sub", [up.outputs[0], constants[1]])
    result = down.outputs[0]
    result.dtype, result.shape = F32, value.shape
    inside = {scaled, rest}
    for node, index in [(use.node, use.idx) for use in value.uses()]:
        if node not in inside:
            node.replace_input_with(index, result)
    _insert_behind(graph, value, [scaled, rest, short, up, down])
    for index, output in enumerate(graph.outputs):
        if output is value:
            result.name, value.name = value.name, f"{value.name}_raw"
            graph.outputs[index] = result
    _watch(graph, value, hidden=hidden)


def _insert_behind(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> None:
    if (producer := value.producer()) is None:  # a graph input
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(producer, nodes)


def _constant(graph: ir.Graph, name: str, number: float) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.Tensor(np.array(number, np.float32), name=name)
        graph.register_initializer(ir.val(name, F32, (), const_value=tensor))
    return graph.initializers[name]
