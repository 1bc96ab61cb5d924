"""Typed half precision: every tensor has its type, and what half precision does is proved by what really rounds."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from agvas_export.graphs import Graph
from agvas_export.half import F16, F32, to_half
from agvas_export.onnx_graph import WeightFiles
from agvas_export.proof import prove_graph
from agvas_export.rounding import HIGHEST, LARGEST, RoundingTwin, rounding_twin
from agvas_export.trace import Trace
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import EngineError

ModelOf = Callable[..., ir.Model]
NAMES = ("semantic_encoder", "pixel_encoder", "spam", "llm", "decode", "decoder")


def written(model: ir.Model, folder: Path, name: str = "graph") -> Path:
    WeightFiles(folder).write(name, model)
    return folder / f"{name}.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_products_are_half_and_norms_are_not(model_of: ModelOf, name: str) -> None:
    model = to_half(model_of(name))
    types: dict[str, set[ir.DataType]] = {}
    for node in model.graph:
        types.setdefault(node.op_type, set()).update(v.dtype for v in node.outputs if v.dtype in (F16, F32))
    for product in ("MatMul", "Gemm", "Conv", "Attention", "ConvTranspose"):
        assert types.get(product, {F16}) == {F16}, product
    norms = ("LayerNormalization", "InstanceNormalization", "RMSNormalization", "ReduceMean")
    for norm in (*norms, "Pow", "Sqrt", "Sin", "Cos", "LogSoftmax"):
        assert types.get(norm, {F32}) == {F32}, norm
    for port in (*model.graph.inputs, *model.graph.outputs):
        if port.dtype in (F16, F32):
            assert (port.dtype is F16) == port.name.endswith(("keys", "values")), port.name


def test_a_written_out_norm_stays_in_full_precision(model_of: ModelOf) -> None:
    """The decoder's norm over channels is no single node: mean, difference, square, root and what scales them."""
    model = to_half(model_of("decoder"))
    (root,) = [node for node in model.graph if node.op_type == "Sqrt"]
    reached = {use.node.op_type for use in root.outputs[0].uses()}
    assert reached == {"Div"}
    assert all(use.node.outputs[0].dtype is F32 for use in root.outputs[0].uses())


def test_only_casts_stand_between_the_types(model_of: ModelOf) -> None:
    model = to_half(model_of("llm"))
    for node in model.graph:
        kinds = {v.dtype for v in node.inputs if v is not None and v.dtype in (F16, F32)}
        assert len(kinds) <= 1, f"{node.op_type} {node.name} mixes {kinds}"
    assert Counter(node.op_type for node in model.graph)["Cast"] < 40


def rounded_by_twin(values: np.ndarray, tmp_path: Path) -> tuple[np.ndarray, float]:
    """x -> x + 0 as a half node, through the twin."""
    x = ir.val("x", F32, ("n",))
    zero = ir.val("zero", F16, (), const_value=ir.tensor(np.array(0, np.float16), name="zero"))
    cast = ir.node("Cast", [x], {"to": int(F16)})
    cast.outputs[0].name, cast.outputs[0].dtype = "half", F16
    add = ir.node("Add", [cast.outputs[0], zero])
    add.outputs[0].name, add.outputs[0].dtype = "sum", F16
    back = ir.node("Cast", add.outputs, {"to": int(F32)})
    back.outputs[0].name, back.outputs[0].dtype, back.outputs[0].shape = "y", F32, ir.Shape(("n",))
    graph = ir.Graph([x], [back.outputs[0]], nodes=[cast, add, back], initializers=[zero], opset_imports={"": 23})
    path = tmp_path / "x.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    twin = RoundingTwin(path)
    return twin.run({"x": values})["y"], twin.peak[1]


def test_the_twin_rounds_as_half_precision_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(1e-8), np.log(6e4), 20_000))
    values = (sizes * rng.choice([-1, 1], 20_000)).astype(np.float32)
    values[:6] = [0, -0.0, 65_504, 6.1e-5, 6e-8, 2.9e-8]  # the largest, the edge of denormal numbers, the smallest
    found, peak = rounded_by_twin(values, tmp_path)
    wanted = values.astype(np.float16).astype(np.float32)
    normal = np.abs(values) >= 2.0**-14
    np.testing.assert_array_equal(found[normal], wanted[normal])
    # denormal numbers are rounded twice: some end on the neighbouring one
    np.testing.assert_allclose(found[~normal], wanted[~normal], rtol=0, atol=2.0**-24)
    assert peak == np.abs(values).max()


def test_a_planted_overflow_is_caught_where_onnx_runtime_comes_back_finite(
    graphs: dict[str, Graph], model_of: ModelOf, trace: Trace, tmp_path: Path
) -> None:
    """A hidden layer a hundred thousand times larger, the next one as much smaller: the function hardly changes."""
    model = model_of("semantic_encoder")
    first, second = (
        next(v for n, v in model.graph.initializers.items() if v.shape == shape and v.is_initializer())
        for shape in ((96, 192), (192, 96))
    )
    for weight, factor in ((first, 1e5), (second, 1e-5)):
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name=weight.name)
    expected = OrtEngine(written(model.clone(), tmp_path, "full")).run(trace.feeds["semantic_encoder"])
    path = written(to_half(model), tmp_path, "semantic_encoder")
    unrounded = OrtEngine(path).run(trace.feeds["semantic_encoder"])["features"]
    assert np.isfinite(unrounded).all()
    np.testing.assert_allclose(unrounded, expected["features"], atol=0.05 * np.abs(expected["features"]).max())
    parity = prove_graph(path, "fp16", [Trace(trace.feeds, {"semantic_encoder": expected})])
    assert parity.peak is not None
    assert parity.peak > 65_504
    with pytest.raises(EngineError, match=r"semantic_encoder drifts first: half tensor \S+ reaches .* limit is 30000"):
        parity.check("semantic_encoder", random_weights=False)


@pytest.mark.parametrize("place", [0, 7, 40, 99])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_wherever_it_stands(tmp_path: Path, place: int, bad: float) -> None:
    """Largest and smallest value alone pass over a NaN in most places."""
    values = np.linspace(-1, 1, 100, dtype=np.float32)
    values[place] = bad
    _, peak = rounded_by_twin(values, tmp_path)
    assert not peak <= LARGEST


def test_half_inputs_are_rounded_and_watched_too(model_of: ModelOf, trace: Trace, tmp_path: Path) -> None:
    twin = RoundingTwin(written(to_half(model_of("decode")), tmp_path, "decode"))
    feeds = {**trace.feeds["decode"]}
    keys = feeds["past_keys"] + np.float32(1e-5)
    # below half's normal numbers ONNX Runtime's cast is a last bit off
    feeds["past_keys"] = np.where(np.abs(keys) < 2.0**-14, 0, keys).astype(np.float32)
    kept = twin.run(feeds)["keys"][:, :, :, :-1]
    np.testing.assert_array_equal(kept, feeds["past_keys"].astype(np.float16).astype(np.float32))
    feeds["past_values"] = feeds["past_values"] * np.float32(1e6)
    twin.run(feeds)
    assert twin.peaks["past_values"] > LARGEST


@pytest.mark.parametrize("name", ["llm", "decoder"])
def test_hidden_places_are_no_peak(model_of: ModelOf, trace: Trace, tmp_path: Path, name: str) -> None:
    """At opset 17 attention is written out, and a mask is added to scores that are half tensors."""
    twin = RoundingTwin(written(to_half(model_of(name, 17)), tmp_path, name))
    twin.run(trace.feeds[name])
    assert 1 < twin.peak[1] < 1000


def test_scores_within_a_fused_attention_are_watched(model_of: ModelOf) -> None:
    """No tensor of the graph holds them, but a backend that writes attention out would hold them in half."""
    model = rounding_twin(to_half(model_of("llm")))
    peaks = [value.name for value in model.graph.outputs if value.name.endswith(HIGHEST)]
    assert sum("_scores" in name for name in peaks) == 6  # the prompt's and the nodes' of three layers
    assert not any(name.startswith("node_bias") for name in peaks)  # our own mask is no activation


def test_the_proof_covers_every_half_tensor_and_sees_rounding(model_of: ModelOf, trace: Trace, tmp_path: Path) -> None:
    model = to_half(model_of("semantic_encoder"))
    computed = {
        value.name.removesuffix("_raw")
        for node in model.graph
        for value in node.outputs
        if value.dtype is F16 and node.op_type in ("MatMul", "Add", "Attention", "Cast")
    }
    path = written(model, tmp_path, "semantic_encoder")
    twin = RoundingTwin(path)
    twin.run(trace.feeds["semantic_encoder"])
    assert {name.removesuffix("_raw") for name in twin.peaks} >= computed
    assert 0 < max(twin.peaks.values()) < LARGEST
    parity = prove_graph(path, "fp16", [trace])
    assert 0 < parity.unrounded_error < parity.largest_error < 2e-2


def test_an_infinite_weight_is_caught(model_of: ModelOf, trace: Trace, tmp_path: Path) -> None:
    model = model_of("spam")
    weight = next(v for v in model.graph.initializers.values() if len(v.shape) == 2)
    large = weight.const_value.numpy().copy()
    large[0, 0] = 1e6
    weight.const_value = ir.tensor(large, name=weight.name)
    parity = prove_graph(written(to_half(model), tmp_path, "spam"), "fp16", [trace])
    with pytest.raises(EngineError, match="spam drifts first"):
        parity.check("spam", random_weights=False)


def test_torch_agrees_that_half_precision_rounds_this_much(
    graphs: dict[str, Graph], model_of: ModelOf, trace: Trace, tmp_path: Path
) -> None:
    """A torch half twin of the same part: its error and the rounding twin's are of one size."""
    feeds, expected = trace.feeds["spam"], trace.outputs["spam"]["visual"]
    twin = RoundingTwin(written(to_half(model_of("spam")), tmp_path, "spam")).run(feeds)["visual"]
    import copy

    module = copy.deepcopy(graphs["spam"].module).half()
    with torch.inference_mode():
        found = module(*(torch.from_numpy(feeds[name]).half() for name in ("semantic", "pixel"))).float().numpy()
    ours, torchs = (float(np.linalg.norm(each - expected)) for each in (twin, found))
    assert 0.5 < ours / torchs < 2
