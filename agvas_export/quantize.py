"""Graphs with 8- and 4-bit weights for ONNX Runtime: every product with a constant matrix, nothing else.

Matrices are quantised one by one, in slices of columns, and remembered by their content: graphs that share weights get
equal bytes, cost one quantisation, and no second copy of a model ever exists. `quantize_dynamic` on a whole model holds
it three times over; its weights and its nodes are the ones written here (a test compares them). Blocks are quantised by
ONNX Runtime's own `matmul_nbits_quantizer`, those of GPTQ by `gptq.py`. Run these on float32 graphs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from agvas_export.quiet import quiet

SLICE = 2**24
"""Elements of a matrix that are quantised at once: bounds the memory, and keeps protobuf under its 2 GB."""

Cache = dict[str, tuple[NDArray, ...]]
"""Quantised matrices by kind and content; pass the same one for graphs that share weights."""


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm with a constant matrix: activation [..., K] times matrix [K, N], plus a Gemm's bias [N]."""

    node: ir.Node
    activation: ir.Value
    weight: ir.Value
    transposed: bool
    """The weight is stored as [N, K]."""
    bias: ir.Value | None

    @property
    def name(self) -> str:
        """Of what is made of the weight; the same weight the other way round has another one."""
        return f"{self.weight.name}.T" if self.transposed else str(self.weight.name)

    @property
    def columns(self) -> int:
        """N, without reading the weight."""
        return int(self.weight.const_value.shape[0 if self.transposed else 1])

    @property
    def rows(self) -> int:
        """K, without reading the weight."""
        return int(self.weight.const_value.shape[1 if self.transposed else 0])

    def matrix(self) -> NDArray:
        """[K, N], contiguous, in the weight's dtype."""
        weight = self.weight.const_value.numpy()
        return np.ascontiguousarray(weight.T if self.transposed else weight)


@dataclass(frozen=True)
class Blocks:
    """How a matrix is stored in blocks of `size` rows, each with its own scale and zero point."""

    bits: int
    method: Literal["nearest", "hqq", "gptq"] = "nearest"
    """What chooses the values. nearest: the block's range. hqq: half-quadratic quantisation, with float zero points;
    needs no calibration, computes in float. gptq: as nearest, but each row makes up for the errors of the rows before
    it (arXiv 2210.17323); needs `calibrate_int4`."""
    int8_activations: bool = False
    """Lets ONNX Runtime compute with activations rounded to 8 bits by block: faster, nearly as exact."""
    size: int = 32

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or (self.method != "nearest" and self.bits != 4):
            raise ValueError(f"blocks of {self.bits} bits by {self.method}: must be 4, or 8 by nearest")

    @property
    def kind(self) -> str:
        """What the cache knows them by."""
        return f"{self.bits} {self.method} {self.size}"


HQQ4, GPTQ4, INT8 = Blocks(4, "hqq"), Blocks(4, "gptq", int8_activations=True), Blocks(8, int8_activations=True)


def products(model: ir.Model) -> Iterator[Product]:
    """Every MatMul with a constant second factor, and every plain Gemm (alpha = beta = 1) with one, in graph order."""
    for node in list(model.graph):
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        weight = node.inputs[1]
        if weight is None or weight.const_value is None or not weight.is_initializer() or len(weight.shape) != 2:
            continue
        if weight.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if attributes.get("transA", 0) or any(attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        yield Product(node, node.inputs[0], weight, bool(attributes.get("transB", 0)), bias)


def quantize_int8(model: ir.Model, *, cache: Cache | None = None) -> ir.Model:
    """8-bit weights by column and activations quantised as they come, for CPUs: what `quantize_dynamic` writes.

    Args:
        model: float32; is left as it was. Weights may be lazy; the result holds its own.
        cache: see Cache.
    """
    made, cache = model.clone(), {} if cache is None else cache
    quantized: dict[ir.Value, tuple[ir.Value, ...]] = {}

    for product in products(made):
        if product.weight.dtype != ir.DataType.FLOAT:
            raise TypeError(f"{product.weight.name} is {product.weight.dtype}, 8-bit activations need FLOAT")
        matrix, scale = remembered(product.matrix(), "int8", int8_columns, -1, cache)
        node, activation = product.node, product.activation
        if activation not in quantized:
            dynamic = ir.node("DynamicQuantizeLinear", [activation], num_outputs=3)
            dynamic.outputs[0].name = f"{activation.name}.uint8"
            made.graph.insert_before(node, dynamic)
            quantized[activation] = tuple(dynamic.outputs)
        values, step, zero = quantized[activation]
        name = product.name
        weight = add_initializer(made, f"{name}.int8", matrix)
        weight_step = add_initializer(made, f"{name}.int8.scale", scale)
        weight_zero = add_initializer(made, f"{name}.int8.zero", np.zeros(scale.shape, np.int8))
        whole = ir.node("MatMulInteger", [values, weight, zero, weight_zero])
        cast = ir.node("Cast", whole.outputs, {"to": ir.DataType.FLOAT})
        both = ir.node("Mul", [step, weight_step])
        _replace(made, product, [whole, cast, both, ir.node("Mul", [cast.outputs[0], both.outputs[0]])])
    return _cleaned(made)


def quantize_int4(
    model: ir.Model, *, head: int | None, body: Blocks = HQQ4, head_blocks: Blocks = INT8, cache: Cache | None = None
) -> ir.Model:
    """Weights in blocks (MatMulNBits), activations as they are: the body in 4 bits, the output head in 8.

    Args:
        model: float32 or float16; is left as it was. Scales take the weights' dtype.
        head: the vocabulary's size; a product with as many columns is the output head. None: there is no head.
        body: of every other product.
        head_blocks: of the output head.
        cache: see Cache; with what `calibrate_int4` put there if the body is by gptq.

    Raises:
        ValueError: no product has `head` columns, or a matrix for gptq was not calibrated.
    """
    made, cache = model.clone(), {} if cache is None else cache
    found = list(products(made))
    if head is not None and all(product.columns != head for product in found):
        raise ValueError(f"no output head: no product of the graph has {head} columns")
    for product in found:
        blocks = head_blocks if product.columns == head else body
        matrix = product.matrix()
        rows, columns = matrix.shape
        if blocks.method == "gptq" and _key(matrix, blocks.kind) not in cache:
            raise ValueError(f"{product.weight.name}: no calibration for gptq in the cache")
        arrays = remembered(matrix, blocks.kind, partial(_quantized_blocks, blocks=blocks), 0, cache)
        name = f"{product.name}.int{blocks.bits}"
        inputs = [
            add_initializer(made, f"{name}{end}", array)
            for end, array in zip(("", ".scale", ".zero"), arrays, strict=True)
        ]
        attributes = {"K": rows, "N": columns, "bits": blocks.bits, "block_size": blocks.size}
        if blocks.int8_activations:
            attributes["accuracy_level"] = 4
        node = ir.node("MatMulNBits", [product.activation, *inputs], attributes, domain="com.microsoft")
        _replace(made, product, [node])
    made.graph.opset_imports["com.microsoft"] = 1
    return _cleaned(made)


def int8_columns(matrix: NDArray) -> tuple[NDArray, NDArray]:
    """float [K, N] -> int8 [K, N] in [-127, 127] and float32 scale [N]; a column of zeros has the scale 1."""
    largest = np.abs(matrix).max(axis=0).astype(np.float32)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    return np.rint(matrix / scale).astype(np.int8), scale


def _quantized_blocks(matrix: NDArray, blocks: Blocks) -> tuple[NDArray, NDArray, NDArray]:
    """[K, N] -> packed uint8 [N, blocks, bytes], scales [N, blocks], zero points: packed uint8, or float for HQQ."""
    with quiet():
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits

        make = onnx.helper.make_tensor_value_info
        node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
        ends = [make("x", onnx.TensorProto.FLOAT, [1, None])], [make("y", onnx.TensorProto.FLOAT, [1, None])]
        graph = onnx.helper.make_graph([node], "one", *ends, [onnx.numpy_helper.from_array(matrix, "w")])
        config = (
            nbits.HQQWeightOnlyQuantConfig(block_size=blocks.size, bits=blocks.bits)
            if blocks.method == "hqq"
            else nbits.DefaultWeightOnlyQuantConfig(block_size=blocks.size, bits=blocks.bits)
        )
        quantizer = nbits.MatMulNBitsQuantizer(onnx.helper.make_model(graph), algo_config=config)
        quantizer.process()
    made = quantizer.model.model.graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.initializer}
    packed, scales, zeros = (arrays[name] for name in made.node[0].input[1:])
    shape = packed.shape[:2]
    return packed, scales.reshape(shape), zeros.reshape(shape[0], -1)


def remembered(
    matrix: NDArray, kind: str, quantize: Callable[[NDArray], tuple[NDArray, ...]], axis: int, cache: Cache
) -> tuple[NDArray, ...]:
    """The quantised matrix, by slices of columns that are joined along `axis`; from the cache if it is there."""
    key = _key(matrix, kind)
    if key not in cache:
        step = max(1, SLICE // matrix.shape[0])
        parts = [quantize(matrix[:, i : i + step]) for i in range(0, matrix.shape[1], step)]
        cache[key] = tuple(np.concatenate(part, axis) for part in zip(*parts, strict=True))
    return cache[key]


def _key(matrix: NDArray, kind: str) -> str:
    digest = hashlib.sha256(f"{kind} {matrix.shape} {matrix.dtype} ".encode())
    digest.update(matrix.data.cast("B"))
    return digest.hexdigest()


def add_initializer(model: ir.Model, name: str, array: NDArray) -> ir.Value:
    """The graph's initialiser of that name, which is made if it is new."""
    if name not in model.graph.initializers:
        model.graph.register_initializer(ir.val(name, const_value=ir.tensor(array, name=name)))
    return model.graph.initializers[name]


def _replace(model: ir.Model, product: Product, nodes: list[ir.Node]) -> None:
    """Put nodes that compute the bare product in its node's place; a bias is added behind them."""
    if product.bias is not None:
        nodes = [*nodes, ir.node("Add", [nodes[-1].outputs[0], product.bias])]
    for number, node in enumerate(nodes):
        node.name = f"{product.node.outputs[0].name}.{number}.{node.op_type}"
    old, new = product.node.outputs, nodes[-1].outputs
    ir.convenience.replace_nodes_and_values(model.graph, product.node, [product.node], nodes, old, new)


def _cleaned(model: ir.Model) -> ir.Model:
    RemoveUnusedNodesPass()(model)  # and the initialisers that nothing uses any more
    return model
