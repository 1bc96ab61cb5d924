"""Writes the graphs that `agvas-runtime roofline` measures a machine's peak with, into agvas_runtime/roofline.

Each is one product x [M, 512] times a constant matrix [512, 512], as the bundles' graphs have them. The matrix is made
from its indices when the graph is loaded: ONNX Runtime folds that into a constant and lays it out as it does weights,
and the file stays small.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).resolve().parents[1] / "agvas_runtime" / "roofline"
WIDTH = 512
OPSET, IR_VERSION = 17, 8
"""Old enough for every ONNX Runtime that runs bundles."""


def product(precision: str) -> onnx.ModelProto:
    """The graph of "fp32" (MatMul) or "int8" (MatMulInteger: unsigned activations, signed weights)."""
    whole = precision == "int8"
    kinds = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32) if whole else (TensorProto.FLOAT,) * 3
    nodes = [
        helper.make_node("Range", ["begin", "end", "step"], ["index"]),
        helper.make_node("Mod", ["index", "values"], ["value"]),
        helper.make_node("Sub", ["value", "middle"], ["signed"]),
        helper.make_node("Cast", ["signed"], ["typed"], to=kinds[1]),
        helper.make_node("Reshape", ["typed", "shape"], ["weight"]),
        helper.make_node("MatMulInteger", ["x", "weight", "x_zero", "weight_zero"], ["y"])
        if whole
        else helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    constants: dict[str, ArrayLike] = {
        "begin": np.int64(0),
        "end": np.int64(WIDTH * WIDTH),
        "step": np.int64(1),
        "values": np.int64(251),
        "middle": np.int64(125),
        "shape": np.array([WIDTH, WIDTH]),
    }
    if whole:
        constants |= {"x_zero": np.uint8(128), "weight_zero": np.zeros(WIDTH, np.int8)}
    graph = helper.make_graph(
        nodes,
        f"product_{precision}",
        [helper.make_tensor_value_info("x", kinds[0], ["M", WIDTH])],
        [helper.make_tensor_value_info("y", kinds[2], ["M", WIDTH])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def main() -> None:
    """Write both graphs."""
    for precision in ("fp32", "int8"):
        path = FOLDER / f"product_{precision}.onnx"
        onnx.save(product(precision), path)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
