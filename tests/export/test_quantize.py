"""Quantisation: constant products only, equal weights give equal bytes, the head apart, scales from what was seen."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from agvas_export import gptq, quantize
from agvas_export.gptq import calibrate_int4
from agvas_export.graphs import Graph
from agvas_export.onnx_graph import WeightFiles
from agvas_export.parity import GRAPH_LIMITS
from agvas_export.qdq import activations, add_qdq, collect_ranges
from agvas_export.quantize import (
    GPTQ4,
    HQQ4,
    Blocks,
    Cache,
    Product,
    products,
    quantize_int4,
    quantize_int8,
)
from agvas_export.trace import Tracer
from agvas_runtime.engines.ort import UNSAFE_OPTIMIZER
from agvas_runtime.frames import read_image
from agvas_train.checkpoint import default_checkpoint_path, load_checkpoint
from tests.conftest import DEMO_FRAMES

Arrays = dict[str, NDArray]
VOCABULARY = 200
SMALL = f"""
<ir_version: 10, opset_import: ["": 23]>
small (float[n, 8, 5, 5] image) => (float[n, {VOCABULARY}] logits, float[n, n] gram) {{
    maps = Conv(image, kernel)
    flat = Flatten(maps)
    a = MatMul(flat, square)
    b = Relu(a)
    c = Gemm<transB = 1>(b, wide, bias)
    d = Gemm<alpha = 0.5>(c, other)
    turned = Transpose(d)
    gram = MatMul(d, turned)
    logits = MatMul(d, head)
}}
"""


@pytest.fixture(scope="module")
def small() -> ir.Model:
    """Every kind of product: a convolution, plain and turned matrices, one with a factor, one of two activations."""
    rng = np.random.default_rng(0)
    model = ir.from_onnx_text(SMALL)
    shapes = {
        "kernel": (4, 8, 2, 2),
        "square": (64, 64),
        "wide": (72, 64),
        "bias": (72,),
        "other": (72, 64),
        "head": (64, VOCABULARY),
    }
    for name, shape in shapes.items():
        quantize.add_initializer(model, name, (0.1 * rng.standard_normal(shape)).astype(np.float32))
    values = {value.name: value for value in model.graph.initializers.values()}
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in values:
                node.replace_input_with(index, values[value.name])
    return ir.from_proto(ir.to_proto(model))


@pytest.fixture(scope="module")
def image() -> Arrays:
    return {"image": np.random.default_rng(1).standard_normal((6, 8, 5, 5)).astype(np.float32)}


@pytest.fixture(scope="module")
def language(graphs: dict[str, Graph], model_of: Callable[..., ir.Model]) -> dict[str, tuple[Graph, ir.Model]]:
    """The trained language model's pass and its decoding step."""
    return {name: (graphs[name], model_of(name)) for name in ("llm", "decode")}


@pytest.fixture(scope="module")
def feeds(graphs: dict[str, Graph]) -> Arrays:
    """The pass of a demo frame."""
    tracer = Tracer(list(graphs.values()), load_checkpoint(default_checkpoint_path()))
    return tracer.trace(read_image(min(DEMO_FRAMES.glob("*.jpg")))).feeds["llm"]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def vocabulary(language: dict[str, tuple[Graph, ir.Model]]) -> int:
    return max(product.columns for product in products(language["llm"][1]))


def run(model: ir.Model, feeds: Arrays) -> Arrays:
    content, providers = ir.to_proto(model).SerializeToString(), ["CPUExecutionProvider"]
    session = ort.InferenceSession(content, providers=providers, disabled_optimizers=[UNSAFE_OPTIMIZER])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def initializers(model: ir.Model) -> dict[str, bytes]:
    return {name: value.const_value.tobytes() for name, value in model.graph.initializers.items()}


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def relative_error(found: NDArray, expected: NDArray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def unpacked(model: ir.Model, product: Product) -> NDArray:
    """[K, N] that MatMulNBits of 4 bits multiplies with."""
    held = model.graph.initializers
    packed, scale, zero = (held[f"{product.name}.int4{end}"].const_value.numpy() for end in ("", ".scale", ".zero"))
    codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:2], -1).astype(np.float32)
    if zero.dtype == np.uint8:
        zero = np.stack((zero & 15, zero >> 4), axis=-1).reshape(zero.shape[0], -1)[:, : scale.shape[1]]
    weight = (codes - zero[..., None].astype(np.float32)) * scale[..., None]
    return weight.reshape(packed.shape[0], -1).T[: product.matrix().shape[0]]


def test_only_plain_products_with_a_constant_matrix_are_found(small: ir.Model) -> None:
    found = {product.name: product for product in products(small)}
    assert list(found) == ["square", "wide.T", "head"]
    assert found["wide.T"].matrix().shape == (64, 72)
    assert found["wide.T"].columns == 72
    assert activations(small) == ["image", "flat", "b", "c", "d"]
    assert activations(small, head=VOCABULARY) == ["image", "flat", "b", "c"]


def test_a_quantised_graph_computes_nearly_the_same_and_its_source_stays(small: ir.Model, image: Arrays) -> None:
    before, expected = ir.to_proto(small).SerializeToString(), run(small, image)
    for made, kept in (
        (quantize_int8(small), {"MatMul", "Gemm", "Conv", "MatMulInteger"}),
        (quantize_int4(small, head=VOCABULARY), {"MatMul", "Gemm", "Conv", "MatMulNBits"}),
    ):
        assert kept <= set(operators(made))
        assert operators(made).count("MatMul") == 1  # the product of two activations
        assert "square" not in made.graph.initializers
        found = run(made, image)
        assert all(relative_error(found[name], expected[name]) < 0.2 for name in expected)
    assert ir.to_proto(small).SerializeToString() == before


def test_int8_is_what_onnxruntime_would_make_of_the_whole_model(
    language: dict[str, tuple[Graph, ir.Model]], feeds: Arrays, tmp_path: Path
) -> None:
    ir.save(language["llm"][1], tmp_path / "llm.onnx")
    quantize_dynamic(
        tmp_path / "llm.onnx",
        tmp_path / "theirs.onnx",
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )
    theirs, ours = ir.load(tmp_path / "theirs.onnx"), quantize_int8(language["llm"][1])
    assert sorted(operators(ours)) == sorted(operators(theirs))
    weights = {str(product.weight.name) for product in products(language["llm"][1])}
    for name in weights:
        assert initializers(ours)[f"{name}.int8"] == initializers(theirs)[f"{name}_quantized"]
        assert initializers(ours)[f"{name}.int8.scale"] == initializers(theirs)[f"{name}_scale"]
    expected = run(theirs, feeds)
    for name, array in run(ours, feeds).items():
        np.testing.assert_array_equal(array, expected[name])


def test_an_activation_of_several_products_is_quantised_once(language: dict[str, tuple[Graph, ir.Model]]) -> None:
    model = language["llm"][1]
    once = len({product.activation for product in products(model)})
    assert operators(quantize_int8(model)).count("DynamicQuantizeLinear") == once < len(list(products(model)))


@pytest.mark.parametrize("kind", ["int8", "int4", "Q/DQ int8", "Q/DQ fp8"])
def test_graphs_that_share_weights_get_equal_bytes(
    language: dict[str, tuple[Graph, ir.Model]], vocabulary: int, kind: str
) -> None:
    def made(model: ir.Model) -> ir.Model:
        if kind == "int8":
            return quantize_int8(model)
        if kind == "int4":
            return quantize_int4(model, head=vocabulary, body=Blocks(4))
        ranges = dict.fromkeys(activations(model), 1.0)
        return add_qdq(model, ranges, "int8" if kind.endswith("int8") else "fp8")

    large = {
        name: {weight for weight in initializers(made(model)).values() if len(weight) > 1000}
        for name, (_, model) in language.items()
    }
    assert large["llm"] == large["decode"]
    assert len(large["llm"]) > 20


def test_quantising_again_gives_the_same_bytes_on_any_number_of_threads(small: ir.Model) -> None:
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(ir.to_proto(quantize_int4(small, head=VOCABULARY)).SerializeToString())
    finally:
        torch.set_num_threads(threads)
    assert made[0] == made[1]


def test_a_shared_cache_quantises_an_equal_matrix_once(small: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], quantize._quantized_blocks
    monkeypatch.setattr(quantize, "_quantized_blocks", lambda m, blocks: calls.append(m.shape) or original(m, blocks))
    cache: Cache = {}
    first, second = (quantize_int4(small, head=VOCABULARY, cache=cache) for _ in range(2))
    assert calls == [(64, 64), (64, 72), (64, VOCABULARY)]
    assert initializers(first) == initializers(second)


def test_a_matrix_in_slices_is_the_matrix_at_once(small: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> list[dict[str, bytes]]:
        return [initializers(quantize_int8(small)), initializers(quantize_int4(small, head=None, body=Blocks(4)))]

    whole = made()
    monkeypatch.setattr(quantize, "SLICE", 64 * 48)  # of 64 rows: 48 columns, and a rest
    assert made() == whole


def test_the_output_head_has_eight_bits_and_the_body_four(small: ir.Model) -> None:
    bits = {
        node.attributes["N"].as_int(): node.attributes["bits"].as_int()
        for node in quantize_int4(small, head=VOCABULARY).graph
        if node.op_type == "MatMulNBits"
    }
    assert bits == {64: 4, 72: 4, VOCABULARY: 8}
    with pytest.raises(ValueError, match="no output head: no product of the graph has 7 columns"):
        quantize_int4(small, head=7)


def test_four_bits_by_hqq_are_nearer_to_trained_weights_than_rounding(
    language: dict[str, tuple[Graph, ir.Model]], vocabulary: int
) -> None:
    model = language["llm"][1]
    nearest, hqq = (quantize_int4(model, head=vocabulary, body=body) for body in (Blocks(4), HQQ4))
    for product in products(model):
        if product.columns != vocabulary:
            errors = [relative_error(unpacked(made, product), product.matrix()) for made in (hqq, nearest)]
            assert errors[0] < errors[1] < 0.1


def test_gptq_keeps_the_states_better_and_its_calibration_serves_the_other_graphs(
    language: dict[str, tuple[Graph, ir.Model]], feeds: Arrays, vocabulary: int, tmp_path: Path
) -> None:
    (_, llm), (_, decode) = language["llm"], language["decode"]
    WeightFiles(tmp_path).write("llm", llm.clone())
    with pytest.raises(ValueError, match="no calibration for gptq in the cache"):
        quantize_int4(llm, head=vocabulary, body=GPTQ4)
    with pytest.raises(ValueError, match="no feeds to calibrate gptq with"):
        calibrate_int4(llm, tmp_path / "llm.onnx", [], {}, head=vocabulary)
    caches: list[Cache] = [{}, {}]
    for cache, held in zip(caches, (2**30, 1), strict=True):  # in one run, and in one for every activation
        calibrate_int4(llm, tmp_path / "llm.onnx", [feeds], cache, head=vocabulary, at_once_bytes=held)
    first, second, other = (
        quantize_int4(model, head=vocabulary, body=GPTQ4, cache=cache)
        for model, cache in ((llm, caches[0]), (llm, caches[1]), (decode, caches[0]))
    )
    assert initializers(first) == initializers(second)
    assert {x for x in initializers(first).values() if len(x) > 1000} == {
        x for x in initializers(other).values() if len(x) > 1000
    }
    expected = run(llm, feeds)["states"]
    errors = [
        relative_error(run(made, feeds)["states"], expected)
        for made in (first, quantize_int4(llm, head=vocabulary), quantize_int4(llm, head=vocabulary, body=Blocks(4)))
    ]
    assert errors[0] < 0.7 * min(errors[1:]) < 0.7 * 0.2


def test_gptq_refuses_what_is_not_finite_and_names_it(small: ir.Model, tmp_path: Path) -> None:
    WeightFiles(tmp_path).write("small", small.clone())
    feeds = {"image": np.full((1, 8, 5, 5), np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"^small\.onnx: flat is not finite in the calibration set$"):
        calibrate_int4(small, tmp_path / "small.onnx", [feeds], {}, head=VOCABULARY)


def test_gptq_of_inputs_without_any_correlation_is_rounding_to_nearest(rng: np.random.Generator) -> None:
    matrix = rng.standard_normal((72, 40)).astype(np.float32)  # the last block is not full
    factor = gptq._error_factor(np.eye(72, dtype=np.float32))
    found = gptq._gptq_blocks(matrix, factor=factor, size=32)
    expected = quantize._quantized_blocks(matrix, Blocks(4))
    assert [array.shape for array in found] == [array.shape for array in expected]
    np.testing.assert_allclose(found[1], np.abs(expected[1]), rtol=1e-6)
    np.testing.assert_array_equal(found[2] & 15, expected[2] & 15)
    assert (found[0][:, :2] == expected[0][:, :2]).mean() > 0.99


def test_blocks_of_half_precision_weights_have_half_precision_scales(small: ir.Model) -> None:
    half = small.clone()
    for value in half.graph.initializers.values():
        array = value.const_value.numpy().astype(np.float16)
        value.const_value = ir.tensor(array, name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT16)  # to set its dtype would change the original's, too
    made = quantize_int4(half, head=VOCABULARY)
    assert made.graph.initializers["square.int4.scale"].dtype == ir.DataType.FLOAT16
    assert made.graph.initializers["head.int8"].dtype == ir.DataType.UINT8
    with pytest.raises(TypeError, match="square is FLOAT16"):
        quantize_int8(half)


def test_unknown_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 8 bits by hqq"):
        Blocks(8, "hqq")


def test_quantising_leaves_the_programs_logging_alone(small: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # a library's `basicConfig` does nothing where there are pytest's
    before = list(root.handlers), root.level, root.manager.disable
    quantize_int4(small, head=VOCABULARY)
    assert (list(root.handlers), root.level, root.manager.disable) == before


def test_ranges_are_the_largest_values_over_all_feeds(small: ir.Model, image: Arrays, tmp_path: Path) -> None:
    watched, seen = small.clone(), activations(small)
    for name in seen[1:]:
        value = next(output for node in watched.graph for output in node.outputs if output.name == name)
        watched.graph.outputs.append(value)
    several = [image, {"image": -2 * image["image"]}]
    runs = [{**run(watched, feed), **feed} for feed in several]
    WeightFiles(tmp_path).write("small", small.clone())
    ranges = collect_ranges(tmp_path / "small.onnx", seen, several)
    assert (tmp_path / "small.data").is_file()  # the weights were read from beside the graph
    assert list(ranges) == seen
    for name in seen:
        assert ranges[name] == pytest.approx(max(np.abs(found[name]).max() for found in runs), rel=1e-5)
    with pytest.raises(ValueError, match="no feeds"):
        collect_ranges(tmp_path / "small.onnx", seen, [])
    with pytest.raises(ValueError, match=r"small.onnx: image is not finite"):
        collect_ranges(tmp_path / "small.onnx", seen, [{"image": np.full((1, 8, 5, 5), np.nan, np.float32)}])


@pytest.mark.parametrize(("kind", "limit"), [("int8", 0.03), ("fp8", 0.08)])
def test_a_qdq_graph_is_valid_and_near_the_graph(
    small: ir.Model, image: Arrays, tmp_path: Path, kind: str, limit: float
) -> None:
    ir.save(small, tmp_path / "small.onnx")
    ranges = collect_ranges(tmp_path / "small.onnx", activations(small), [image])
    made = add_qdq(small, ranges, kind)  # type: ignore[arg-type]
    count = len(activations(small, kind))  # type: ignore[arg-type]
    assert count == {"int8": 5, "fp8": 4}[kind]  # fp8 leaves the convolution
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    expected, found = run(small, image), run(made, image)
    assert all(relative_error(found[name], expected[name]) < limit for name in expected)
    assert operators(made).count("QuantizeLinear") == count
    assert operators(made).count("DequantizeLinear") == 2 * count
    largest = {"int8": 127, "fp8": 448}[kind]
    assert made.graph.initializers["flat.scale"].const_value.numpy() == np.float16(ranges["flat"] / largest)
    scale = made.graph.initializers[f"wide.{kind}.scale"].const_value.numpy()
    wide = small.graph.initializers["wide"].const_value.numpy()
    np.testing.assert_allclose(scale, np.abs(wide).max(axis=1) / largest, rtol=2**-11)
    if kind == "int8":
        assert made.graph.initializers["kernel.int8.scale"].shape == (4,)


CONVOLUTIONS = {
    "patch": ((64, 3, 14, 14), 1),
    "square": ((64, 64, 3, 3), 1),
    "large": ((64, 64, 6, 6), 1),
    "grouped": ((64, 32, 3, 3), 2),
    "depthwise": ((64, 1, 3, 3), 64),
    "last": ((16, 64, 1, 1), 1),
}
"""Weight [out, in a group, h, w] and groups, one behind the other."""


@pytest.mark.parametrize(("kind", "expected"), [("int8", list(CONVOLUTIONS)[1:]), ("fp8", ["square"])])
def test_convolutions_of_the_picture_stay_and_in_fp8_those_without_a_kernel(kind: str, expected: list[str]) -> None:
    x = ir.val("x", ir.DataType.FLOAT, (1, 3, 224, 224))
    nodes, weights = [], []
    for name, (shape, group) in CONVOLUTIONS.items():
        weights.append(ir.val(f"{name}.w", const_value=ir.tensor(np.ones(shape, np.float32), name=f"{name}.w")))
        source = nodes[-1].outputs[0] if nodes else x
        stride = shape[2] if name == "patch" else 1
        nodes.append(ir.node("Conv", [source, weights[-1]], {"group": group, "strides": [stride, stride]}, name=name))
        nodes[-1].outputs[0].name = f"{name}.y"
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=weights, opset_imports={"": 19})
    model = ir.Model(graph, ir_version=10)
    names = activations(model, kind)  # type: ignore[arg-type]
    made = add_qdq(model, dict.fromkeys(names, 1.0), kind)  # type: ignore[arg-type]
    rounded = ["DequantizeLinear"] * 2
    found = [node.name for node in made.graph if [getattr(x.producer(), "op_type", "") for x in node.inputs] == rounded]
    assert found == expected
    assert len(names) == len(expected)
    assert set(names) <= set(activations(model))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_language_models_states_survive_qdq(
    language: dict[str, tuple[Graph, ir.Model]], feeds: Arrays, vocabulary: int, tmp_path: Path, kind: str
) -> None:
    model = language["llm"][1]
    ir.save(model, tmp_path / "llm.onnx")
    ranges = collect_ranges(tmp_path / "llm.onnx", activations(model, head=vocabulary), [feeds])
    made = add_qdq(model, ranges, kind, head=vocabulary)  # type: ignore[arg-type]
    error = relative_error(run(made, feeds)["states"], run(model, feeds)["states"])
    assert error < GRAPH_LIMITS[kind]  # the export's own; 0.052 in fp8 for the embedded model
    assert [product.columns for product in products(made)] == [vocabulary]


def test_qdq_needs_every_range_and_an_opset_that_has_the_types(small: ir.Model) -> None:
    with pytest.raises(ValueError, match=r"no range for flat"):
        add_qdq(small, {"image": 1.0}, "int8")
    old = small.clone()
    old.graph.opset_imports[""] = 17
    with pytest.raises(ValueError, match="opset 17: must be 19 or later for fp8"):
        add_qdq(old, {}, "fp8")


def test_tables_of_more_than_two_axes_are_no_products() -> None:
    """SAM's relative positions stand in a constant [1, 1, side, d, side]: attention's own, with no channels."""
    x = ir.val("x", ir.DataType.FLOAT, (2, 2, 3, 4, 5))
    weights = [
        ir.val(name, const_value=ir.tensor(np.ones(shape, np.float32), name=name))
        for name, shape in (("table", (1, 1, 3, 5, 6)), ("matrix", (6, 7)))
    ]
    first = ir.node("MatMul", [x, weights[0]])
    second = ir.node("MatMul", [first.outputs[0], weights[1]])
    first.outputs[0].name, second.outputs[0].name = "a", "b"
    graph = ir.Graph([x], second.outputs, nodes=[first, second], initializers=weights, opset_imports={"": 19})
    assert activations(ir.Model(graph, ir_version=10)) == ["a"]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_scales_survive_half_precision(kind: str) -> None:
    """A channel of tiny weights gets a scale that float16 holds, whatever that costs."""
    values = np.array([[1e-6, 0.3], [-2e-6, 0.7]], np.float32)
    x = ir.val("x", ir.DataType.FLOAT, (1, 2))
    weight = ir.val("w", const_value=ir.tensor(values, name="w"))
    node = ir.node("MatMul", [x, weight])
    node.outputs[0].name = "y"
    model = ir.Model(
        ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 19}), ir_version=10
    )
    made = add_qdq(model, {"x": 1e-7}, kind)
    for name in ("x.scale", f"w.{kind}.scale"):
        scale = made.graph.initializers[name].const_value.numpy()
        assert (scale >= np.finfo(np.float16).smallest_normal).all()
        np.testing.assert_array_equal(scale, scale.astype(np.float16))
