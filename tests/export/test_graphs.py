"""Every graph computes what the reference computes: any batch, any length, any anchors; equal weights lie once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from agvas_export.graphs import Graph, default_plan
from agvas_export.language import pick
from agvas_export.onnx_graph import WeightFiles, onnx_graph
from agvas_export.targets import LLM_GRAPHS
from agvas_export.trace import Trace
from agvas_runtime.engines.ort import OrtEngine
from agvas_train.checkpoint import Checkpoint
from tests.export.conftest import Exported

NAMES = ("semantic_encoder", "pixel_encoder", "spam", "llm", "decode", "decoder")


def of_batch(graph: Graph, size: int) -> dict[str, torch.Tensor]:
    feeds = {}
    for name, value in graph.inputs.items():
        axis = next((axis for axis, dim in graph.dynamic.get(name, {}).items() if dim in ("B", "G")), None)
        times = [1] * value.ndim
        if axis is not None:
            times[axis] = 2
        feeds[name] = value if axis is None else value.repeat(times).narrow(axis, 0, size)
    return feeds


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_takes_any_batch(exported: Exported, graphs: dict[str, Graph], name: str, batch: int) -> None:
    graph = graphs[name]
    feeds = of_batch(graph, batch)
    with torch.inference_mode():
        expected = graph.reference(*feeds.values())
    found = OrtEngine(exported[0] / "graphs" / f"{name}.onnx").run({k: v.numpy() for k, v in feeds.items()})
    for output, value in zip(graph.outputs, expected, strict=True):
        assert found[output].shape == tuple(value.shape)
        scale = max(1.0, float(value.abs().max()))
        np.testing.assert_allclose(found[output], value.numpy(), atol=1e-4 * scale, err_msg=output)


def test_the_pass_takes_any_length(exported: Exported, graphs: dict[str, Graph]) -> None:
    """Another instruction has another prompt and another trie; one node and one edge are enough."""
    llm, engine = graphs["llm"], OrtEngine(exported[0] / "graphs" / "llm.onnx")
    for before, after, nodes, edges in ((2, 5, 9, 7), (1, 1, 1, 1)):
        shorter = {
            "before": llm.inputs["before"][:, :before],
            "visual": llm.inputs["visual"][:1],
            "after": llm.inputs["after"][:, :after],
            "nodes": llm.inputs["nodes"][:, :nodes],
            "depths": llm.inputs["depths"][:nodes],
            "node_bias": llm.inputs["node_bias"][:nodes, :nodes],
            "edge_rows": llm.inputs["edge_rows"][:edges] % (nodes + 1),
            "edge_tokens": llm.inputs["edge_tokens"][:edges],
        }
        with torch.inference_mode():
            expected = dict(zip(llm.outputs, llm.reference(*shorter.values()), strict=True))
        found = engine.run({k: v.numpy() for k, v in shorter.items()})
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("present", [(0, 0, 1), (1, 1, 0), (0, 1, 0), (1, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_the_decoder_leaves_absent_anchors_out(
    exported: Exported, graphs: dict[str, Graph], trace: Trace, present: tuple[int, ...]
) -> None:
    feeds = {key: value[:1] if value.ndim else value for key, value in trace.feeds["decoder"].items()}
    feeds["present"] = np.array([present], np.float32)
    feeds["states"] = np.where(np.array(present)[None, :, None], feeds["states"], 7.0).astype(np.float32)
    feeds["alpha"] = np.array(0.3, np.float32)
    with torch.inference_mode():
        (expected,) = graphs["decoder"].reference(*map(torch.from_numpy, feeds.values()))
    found = OrtEngine(exported[0] / "graphs" / "decoder.onnx").run(feeds)["map"]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_decoding_goes_on_from_the_keys_and_values_of_the_pass(
    exported: Exported, trace: Trace, checkpoint: Checkpoint
) -> None:
    """Leaving the trie costs nothing twice: the pass's rows of the prompt are what decoding begins with."""
    length = default_plan(checkpoint).prompt_length
    out = OrtEngine(exported[0] / "graphs" / "llm.onnx").run(trace.feeds["llm"])
    feeds = {**trace.feeds["decode"], **{f"past_{name}": out[name][:, :, :, :length] for name in ("keys", "values")}}
    found = OrtEngine(exported[0] / "graphs" / "decode.onnx").run(feeds)
    for name, value in trace.outputs["decode"].items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, err_msg=name)


def test_greedy_is_the_lowest_token_on_ties(tmp_path: Path) -> None:
    class Pick(torch.nn.Module):
        def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return pick(logits)

    example = torch.randn(2, 3, 1536)
    tied = Graph("tied", Pick(), pick, {"logits": example}, ("greedy", "margin"), {"logits": {0: "B"}})
    WeightFiles(tmp_path).write("tied", onnx_graph(tied))
    logits = np.zeros((2, 3, 1536), np.float32)
    logits[0, 1, [40, 7, 1535]] = logits[0, 2, [1535, 1534]] = logits[1, 0, 900] = 2.0
    found = OrtEngine(tmp_path / "tied.onnx").run({"logits": logits})
    assert found["greedy"].tolist() == [[0, 7, 1534], [900, 0, 0]]
    assert found["margin"].tolist() == [[0, 0, 0], [2, 0, 0]]


def test_graphs_that_share_weights_share_the_file(exported: Exported) -> None:
    folder, manifest, _ = exported
    assert {tuple(manifest.graphs[name].data) for name in LLM_GRAPHS} == {("graphs/llm.data",)}
    assert not (folder / "graphs" / "decode.data").exists()
    assert manifest.files["graphs/decode.onnx"].size < 0.05 * manifest.files["graphs/llm.data"].size


def test_equal_weights_are_written_once_and_read_back_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    same, other = (rng.standard_normal((40, 40)).astype(np.float32) for _ in range(2))

    def model(*arrays: np.ndarray) -> ir.Model:
        x = ir.val("x", ir.DataType.FLOAT, (1, 40))
        nodes, weights, last = [], [], x
        for number, array in enumerate(arrays):
            weight = ir.val(f"w{number}", const_value=ir.tensor(array, name=f"w{number}"))
            node = ir.node("MatMul", [last, weight])
            nodes, weights, last = [*nodes, node], [*weights, weight], node.outputs[0]
        last.name, last.dtype, last.shape = "y", ir.DataType.FLOAT, ir.Shape((1, 40))
        return ir.Model(ir.Graph([x], [last], nodes=nodes, initializers=weights, opset_imports={"": 23}), ir_version=10)

    files = WeightFiles(tmp_path)
    assert files.write("one", model(same)) == ["one.data"]
    assert files.write("two", model(other, same)) == ["two.data", "one.data"]
    assert (tmp_path / "one.data").stat().st_size == (tmp_path / "two.data").stat().st_size == same.nbytes
    x = np.eye(40, dtype=np.float32)[:1]
    np.testing.assert_allclose(OrtEngine(tmp_path / "two.onnx").run({"x": x})["y"], x @ other @ same, rtol=1e-4)
    for tensor in onnx.load(tmp_path / "two.onnx").graph.initializer:  # onnx checks that the places lie in the files
        assert onnx.numpy_helper.to_array(tensor).shape == (40, 40)


@pytest.mark.parametrize("opset", [17, 19, pytest.param(20, marks=pytest.mark.slow)])
def test_older_opsets_compute_the_same(
    model_of: Callable[..., ir.Model], trace: Trace, tmp_path: Path, opset: int
) -> None:
    """Attention and norms are written out there. 17 and 19 are what engines are built from."""
    for name in ("pixel_encoder", "llm", "decoder"):
        WeightFiles(tmp_path).write(name, model_of(name, opset))
        onnx.checker.check_model(tmp_path / f"{name}.onnx", full_check=True)
        cut = [node for node in onnx.load(tmp_path / f"{name}.onnx").graph.node if node.op_type == "Shape"]
        ends = [attribute.name for node in cut for attribute in node.attribute if attribute.name == "end"]
        assert bool(ends) == (opset > 17 and name != "pixel_encoder")  # TensorRT 8.6 knows whole shapes only
        found = OrtEngine(tmp_path / f"{name}.onnx").run(trace.feeds[name])
        for output, expected in trace.outputs[name].items():
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(found[output], expected, atol=1e-4 * scale, err_msg=f"{name} {output}")
