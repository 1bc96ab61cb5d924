"""From a graph's module to ONNX in memory, and on to files: weights beside the graph, equal ones written once."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch.export import Dim

from agvas_export.graphs import Graph
from agvas_export.quiet import quiet
from agvas_export.targets import OPSET

OLDEST_OF_EXPORTER = 18
RESIZE_18 = {"antialias": 0, "keep_aspect_ratio_policy": "stretch"}
"""Attributes that Resize has from opset 18 on, and the values that say what it did before."""
ALL = np.iinfo(np.int32).max
"""End of a slice that goes to the last one."""
EXTERNAL_BYTES = 1024
"""Weights from this size on lie in a file of their own."""
ALIGNMENT, PAGE, LARGE_BYTES = 64, 4096, 1 << 20
"""Bytes that weights in their files begin at multiples of: pages for large ones, so that they can be mapped."""


def onnx_graph(graph: Graph, *, opset: int = OPSET) -> ir.Model:
    """Translate a graph; its weights stay in the module's memory."""
    dims = {name: Dim(name) for axes in graph.dynamic.values() for name in axes.values()}
    dynamic = tuple({axis: dims[dim] for axis, dim in graph.dynamic.get(name, {}).items()} for name in graph.inputs)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamo=True,
            opset_version=max(opset, OLDEST_OF_EXPORTER),
            dynamic_shapes=dynamic,
            optimize=True,
            verbose=False,
        )
    model = program.model
    passes.CommonSubexpressionEliminationPass()(model)
    for node in model.graph:
        for output in node.outputs:
            if output.dtype is None:  # of the sines and cosines that the exporter puts before a rotary embedding
                output.dtype = node.inputs[0].dtype
    # the exporter's notes: stack traces with the paths of this machine, at every node
    passes.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    if opset < OLDEST_OF_EXPORTER:
        _to_opset_17(model)
    return model


def _to_opset_17(model: ir.Model) -> None:
    """From 18: of the operators that our graphs have, two were others: ReduceMean had its axes as attribute, Resize
    lacked attributes, which have here the value that says what it did before.

    Shapes are cut by nodes of their own: TensorRT 8.6, which is what 17 is for, gives the whole shape instead.
    """
    for node in model.graph:
        if node.op_type == "ReduceMean" and len(node.inputs) > 1:
            axes = node.inputs[1].const_value.numpy().tolist()
            node.attributes["axes"] = ir.AttrInt64s("axes", axes)
            node.attributes.pop("noop_with_empty_axes", None)
            node.resize_inputs(1)
        elif node.op_type == "Resize":
            for name, usual in RESIZE_18.items():
                if name in node.attributes and node.attributes.pop(name).value != usual:
                    raise NotImplementedError(f"Resize with another {name} than {usual!r} in opset 17")
        elif node.op_type == "Shape":
            _cut_behind(model.graph, node)
    model.graph.opset_imports[""] = 17
    passes.RemoveUnusedNodesPass()(model)


def _cut_behind(graph: ir.Graph, node: ir.Node) -> None:
    """Give a Shape with `start` or `end` as a whole Shape and a Slice, in place."""
    start, end = (node.attributes.pop(name, None) for name in ("start", "end"))
    if end is None and (start is None or start.value == 0):
        return
    whole = ir.node("Shape", [node.inputs[0]], name=f"{node.name}_whole")
    whole.outputs[0].dtype = ir.DataType.INT64
    graph.insert_before(node, whole)
    node.op_type = "Slice"
    node.resize_inputs(4)
    node.replace_input_with(0, whole.outputs[0])
    cut = {"starts": start.value if start else 0, "ends": end.value if end else ALL, "axes": 0}
    for index, (what, number) in enumerate(cut.items(), start=1):
        name = f"{node.name}_{what}"
        value = ir.val(name, const_value=ir.tensor([number], dtype=ir.DataType.INT64, name=name))
        graph.register_initializer(value)
        node.replace_input_with(index, value)


class WeightFiles:
    """Writes graphs into a folder: small weights inside them, large ones in `<graph>.data`, equal ones once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[tuple[str, bytes], tuple[str, int]] = {}

    def write(self, name: str, model: ir.Model) -> list[str]:
        """Write `<name>.onnx`; the files that hold its weights, in the order of their first use. Raises OSError."""
        used: dict[str, None] = {}
        data = f"{name}.data"
        offset = 0
        with open(self.folder / data, "wb") as file:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < EXTERNAL_BYTES:
                    continue
                content = tensor.tobytes()
                key = (str(tensor.dtype), sha256(content).digest())
                if key not in self._places:
                    gap = -offset % (PAGE if len(content) >= LARGE_BYTES else ALIGNMENT)
                    file.write(bytes(gap))
                    offset += gap
                    self._places[key] = data, offset
                    file.write(content)
                    offset += len(content)
                where, start = self._places[key]
                used[where] = None
                value.const_value = ir.ExternalTensor(
                    where, start, len(content), tensor.dtype, shape=tensor.shape, name=value.name, base_dir=self.folder
                )
        if not offset:
            (self.folder / data).unlink()
        ir.save(model, self.folder / f"{name}.onnx")
        return list(used)
