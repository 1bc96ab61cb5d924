"""The ONNX Runtime engine, on real graphs; and how engines are found by name."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agvas_runtime.engines import native
from agvas_runtime.engines.ort import CPU, CUDA, OrtEngine
from agvas_runtime.engines.registry import engine_names, open_segmenter
from agvas_runtime.errors import EngineError, InputError


@pytest.fixture
def graph(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
    ]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in
               (("a", ["n", 3]), ("b", [3, 2]), ("bias", []))]  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("sum", "product")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", tensors, outputs), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path = tmp_path / "spam.onnx"
    onnx.save(model, path)
    return path


def feeds(rows=4):
    random = np.random.default_rng(0)
    return {
        "a": random.random((rows, 3), dtype=np.float32),
        "b": random.random((3, 2), dtype=np.float32),
        "bias": np.array(2, np.float32),
    }


@pytest.mark.parametrize("threads", [None, 1, 2])
def test_runs_by_name_with_any_number_of_rows(graph, threads):
    engine = OrtEngine(graph, threads)
    for rows in (1, 4):
        given = feeds(rows)
        got = engine.run(given)
        assert list(got) == ["sum", "product"]
        np.testing.assert_allclose(got["sum"], given["a"] @ given["b"] + 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"b": np.ones((2, 2), np.float32)}, r"b float32\[2, 2\]"),
        ({"a": np.ones((4, 3))}, r"a float64\[4, 3\]"),
        ({"stranger": np.ones(1, np.float32)}, "stranger"),
    ],
)
def test_wrong_feeds_are_one_line_that_names_graph_and_feeds(graph, wrong, reason):
    with pytest.raises(EngineError, match=f"^graph spam: .*{reason}") as caught:
        OrtEngine(graph).run({**feeds(), **wrong})
    assert "\n" not in str(caught.value)


def test_a_missing_feed_is_named(graph):
    given = feeds()
    del given["bias"]
    with pytest.raises(EngineError, match="bias"):
        OrtEngine(graph).run(given)


def test_a_file_that_is_no_graph_is_named(tmp_path):
    (tmp_path / "llm.onnx").write_bytes(b"not a graph")
    for name in ("llm.onnx", "missing.onnx"):
        with pytest.raises(EngineError, match=rf"^graph {name[:-5]}: cannot be loaded: [^\n]*$"):
            OrtEngine(tmp_path / name)


def test_a_provider_that_is_not_here_is_named(graph):
    with pytest.raises(EngineError, match="no NoSuchProvider here"):
        OrtEngine(graph, providers=["NoSuchProvider"])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_named(graph, monkeypatch):
    """ONNX Runtime would take the CPU without a word."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])  # as in a build with CUDA
    with pytest.raises(EngineError, match=r"^graph spam: .* could not start CUDAExecutionProvider \(CUDA or cuDNN"):
        OrtEngine(graph, providers=(CUDA, CPU))


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_graph_whose_cuda_does_not_start_runs_on_the_cpu_after_a_note(graph, monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert list(native.ort_engine(graph, 1).run(feeds())) == ["sum", "product"]
    assert "could not start CUDAExecutionProvider" in capsys.readouterr().err


def test_engines_are_found_by_name():
    assert engine_names()[0] == "ort"
    assert "reference" in engine_names()
    with pytest.raises(InputError, match="unknown engine 'refrence': did you mean 'reference'"):
        open_segmenter("refrence")
    with pytest.raises(InputError, match="unknown engine 'xyz': there are ort, tensorrt, compiled-decode, reference"):
        open_segmenter("xyz")


def test_an_engine_without_its_packages_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "agvas_train.reference", None)  # as if its import failed
    with pytest.raises(InputError, match=r"engine 'reference' is not installed: pip install agvas\[train\]"):
        open_segmenter("reference")
