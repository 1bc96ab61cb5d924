"""ONNX Runtime's engines, on real graphs, plainly and by I/O binding; and how engines are found by name."""

import inspect
import platform
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from agvas_runtime import cpu
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines import InDevice
from agvas_runtime.engines.native import open_engines
from agvas_runtime.engines.ort import CPU, CUDA, EXACT_EIGHT_BITS, OrtEngine, available_providers, open_session
from agvas_runtime.engines.ort_bound import BoundEngine, BoundTensor, page_locked
from agvas_runtime.engines.registry import OF_BUNDLES, engine_names, open_segmenter
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.segmenter import Segmenter

ENGINES = {"plain": OrtEngine, "bound": lambda path: BoundEngine(path, device="cpu")}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where I/O binding is tried: the same code in the machine's own memory, and on a GPU where there is one."""
    if request.param == "cuda" and CUDA not in available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    return request.param


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
@pytest.mark.parametrize("engine", ENGINES)
def test_wrong_feeds_are_one_line_that_names_graph_and_feeds(graph, wrong, reason, engine):
    with pytest.raises(EngineError, match=f"^graph spam: .*{reason}") as caught:
        ENGINES[engine](graph).run({**feeds(), **wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_feed_is_named(graph, engine):
    opened, given = ENGINES[engine](graph), feeds()
    opened.run(given)
    del given["bias"]  # what the run before was given does not stand in for it
    with pytest.raises(EngineError, match="bias"):
        opened.run(given)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_no_graph_is_named(tmp_path, engine):
    (tmp_path / "llm.onnx").write_bytes(b"not a graph")
    for name in ("llm.onnx", "missing.onnx"):
        with pytest.raises(EngineError, match=rf"^graph {name[:-5]}: cannot be loaded: [^\n]*$"):
            ENGINES[engine](tmp_path / name)


def without_cuda():
    if CUDA in available_providers():
        pytest.skip("this ONNX Runtime has CUDA")


def test_cuda_that_is_not_in_this_build_is_named_with_the_ways_out(graph):
    without_cuda()
    wanted = r"^graph spam: ONNX Runtime has no CUDAExecutionProvider here \(it has .*CPUExecutionProvider\): "
    with pytest.raises(EngineError, match=wanted + r"pip install 'agvas\[gpu\]' .*, or use --engine ort$"):
        BoundEngine(graph)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_that_does_not_start_is_named_with_the_ways_out(graph, monkeypatch):
    """ONNX Runtime would take the CPU without a word."""
    without_cuda()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])  # as in a build with CUDA
    wanted = r"^graph spam: ONNX Runtime could not start CUDAExecutionProvider \(.*\): .*cudnn.*, or use --engine ort$"
    with pytest.raises(EngineError, match=wanted):
        BoundEngine(graph)


def test_a_session_never_goes_on_without_its_provider(graph):
    """By default ONNX Runtime makes it anew on the CPU when the provider fails in a run."""
    for engine in (OrtEngine(graph), BoundEngine(graph, device="cpu")):
        assert not engine._session._enable_fallback


@pytest.mark.parametrize("engine", ["ort-cuda", "otr"])
def test_opening_a_bundle_for_what_is_not_here_opens_nothing(engine):
    without_cuda()
    kind, reason = (InputError, "engine 'otr' does not run bundles") if engine == "otr" else (EngineError, "no CUDA")
    with pytest.raises(kind, match=reason):
        open_engines(Bundle.open(default_bundle_path()), engine, ["spam"])


def bound(graph, device):
    return BoundEngine(graph, 1, device=device)


def test_bound_outputs_stay_on_the_device_and_say_what_they_are(graph, device):
    given = feeds()
    got = bound(graph, device).run(given)
    assert list(got) == ["sum", "product"]
    tensor = got["sum"]
    assert isinstance(tensor, InDevice)
    assert (tensor.device, tensor.shape, tensor.dtype) == (device, (4, 2), np.float32)
    np.testing.assert_allclose(tensor, given["a"] @ given["b"] + 2, rtol=1e-5)
    assert np.asarray(tensor, np.float64).dtype == np.float64


def test_bound_outputs_feed_the_next_engine_without_passing_through_the_host(graph, device, monkeypatch):
    first, second = bound(graph, device), bound(graph, device)
    given = feeds(rows=3)
    between = first.run(given)["sum"]

    def copied(*_, **__):
        raise AssertionError("through the host")

    with monkeypatch.context() as patch:
        patch.setattr(BoundTensor, "__array__", copied)
        got = second.run({**given, "b": between})["product"]
    np.testing.assert_allclose(got, given["a"] @ (given["a"] @ given["b"] + 2), rtol=1e-5)


def test_outputs_of_an_engine_on_the_cpu_and_on_a_device_go_to_each_other(graph, device):
    plain, other, given = OrtEngine(graph), bound(graph, device), feeds(rows=3)
    there = other.run({**given, "b": plain.run(given)["sum"]})["sum"]
    back = plain.run({**given, "b": there})["product"]
    expected = given["a"] @ (given["a"] @ (given["a"] @ given["b"] + 2) + 2)
    np.testing.assert_allclose(back, expected, rtol=1e-5)


def test_a_bound_output_stays_as_it_is_after_later_runs_of_other_sizes_and_the_engines_end(graph, device):
    engine, held = bound(graph, device), []
    for rows in (4, 1, 4, 0, 7):
        given = {**feeds(rows), "bias": np.array(rows, np.float32)}
        held.append((engine.run(given)["sum"], given["a"] @ given["b"] + rows))
    engine.close()
    engine.close()
    for got, expected in held:
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_read_only_array_is_taken_to_the_device_once(graph, device):
    engine, given = bound(graph, device), feeds()
    constant = given["a"].view()
    constant.setflags(write=False)
    first = np.array(engine.run({**given, "a": constant})["product"])
    given["a"] *= 2
    np.testing.assert_array_equal(engine.run({**given, "a": constant})["product"], first)
    np.testing.assert_allclose(engine.run(given)["product"], 2 * first, rtol=1e-5)  # another array takes its place
    np.testing.assert_allclose(engine.run({**given, "a": constant})["product"], 2 * first, rtol=1e-5)


def test_a_feed_in_any_order_of_memory_is_bound(graph, device):
    given = feeds()
    turned = {**given, "a": np.asfortranarray(given["a"]), "b": np.ascontiguousarray(given["b"].T).T}
    np.testing.assert_allclose(bound(graph, device).run(turned)["product"], given["a"] @ given["b"], rtol=1e-5)


def test_what_the_graph_reads_on_the_host_is_left_there(graph, device):
    engine, given = bound(graph, device), feeds(rows=3)
    engine._on_host = {"a", "b"}
    constant = given["a"].view()
    constant.setflags(write=False)
    between = engine.run({**given, "a": constant})["sum"]
    for _ in range(2):
        got = engine.run({**given, "a": constant, "b": between})["product"]
        np.testing.assert_allclose(got, given["a"] @ (given["a"] @ given["b"] + 2), rtol=1e-5)


@pytest.fixture(scope="module")
def lent():
    """Memory of the host that ONNX Runtime lends as it lends page-locked memory where it has CUDA."""
    if "memory_info" not in inspect.signature(onnxruntime.OrtValue.ortvalue_from_shape_and_type).parameters:
        pytest.skip("this ONNX Runtime lends none")
    kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    info = onnxruntime.OrtMemoryInfo("Cpu", *kinds)
    onnxruntime.create_and_register_allocator(info, None)
    return info


def test_feeds_go_through_page_locked_memory_where_there_is_some(graph, lent):
    engine = bound(graph, "cpu")
    engine._page_locked = lent
    for rows in (4, 1, 4):
        given = feeds(rows)
        np.testing.assert_allclose(engine.run(given)["product"], given["a"] @ given["b"], rtol=1e-5)
    assert ("a", "page-locked") in engine._buffers


def test_page_locked_memory_is_found_where_onnx_runtime_lists_cuda(lent):
    listed = SimpleNamespace(ep_name=CUDA, memory_info=lambda kind: lent)
    kinds, value = onnxruntime.OrtDeviceMemoryType, onnxruntime.OrtValue
    assert page_locked(SimpleNamespace(get_ep_devices=lambda: [listed], OrtDeviceMemoryType=kinds, OrtValue=value))
    assert page_locked(SimpleNamespace(get_ep_devices=list, OrtDeviceMemoryType=kinds, OrtValue=value)) is None
    assert page_locked(SimpleNamespace()) is None  # an older one


AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines.native import open_engines
from agvas_runtime.engines.ort import share_threads

share_threads(2)
bundle = Bundle.open(default_bundle_path())
engines = open_engines(bundle, "ort", ["semantic_encoder", "pixel_encoder"])
sizes = bundle.manifest.preprocessing.semantic.size, bundle.manifest.model.canvas
frames = [np.random.default_rng(0).random((1, 3, size, size), np.float32) for size in sizes]

def run(name, pixels):
    return engines[name].run({"pixels": pixels})["features"]

alone = list(map(run, engines, frames))
with ThreadPoolExecutor(2) as pool:
    for _ in range(8):
        for got, expected in zip(pool.map(run, engines, frames), alone):
            np.testing.assert_array_equal(got, expected)
"""


def test_two_graphs_at_once_on_the_shared_pool_give_what_they_give_alone():
    done = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_where_eight_bit_sums_would_be_clipped_sessions_take_the_exact_way(graph, monkeypatch, rng):
    """On this machine both ways are exact, so the embedded bundle, which has 8 bits, answers alike."""
    frame = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    before = Segmenter.open(threads=1).segment(frame)
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert cpu.clips_eight_bit_sums()
    assert open_session(graph, 1).get_session_options().get_session_config_entry(EXACT_EIGHT_BITS) == "1"
    exact = Segmenter.open(threads=1).segment(frame)
    assert exact.answer == before.answer
    np.testing.assert_allclose(exact.probability, before.probability, atol=1e-4)
    for flags, machine in (({"avx2", "avx_vnni"}, "x86_64"), ({"avx512_vnni"}, "AMD64"), (set(), "aarch64")):
        monkeypatch.setattr(cpu, "cpu_flags", lambda flags=flags: frozenset(flags))
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert not cpu.clips_eight_bit_sums()


@pytest.mark.gpu
def test_the_embedded_bundle_gives_on_cuda_what_it_gives_on_the_cpu(rng):
    if CUDA not in available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    bundle = Bundle.open(default_bundle_path())
    graphs = ["semantic_encoder", "pixel_encoder", "spam"]
    sizes = bundle.manifest.preprocessing.semantic.size, bundle.manifest.model.canvas
    frames = [rng.random((1, 3, size, size), np.float32) for size in sizes]
    visual = []
    for name in ("ort", "ort-cuda"):
        engines = open_engines(bundle, name, graphs)
        semantic, pixel = (
            engines[graph].run({"pixels": x})["features"] for graph, x in zip(graphs[:2], frames, strict=True)
        )
        visual.append(np.asarray(engines["spam"].run({"semantic": semantic, "pixel": pixel})["visual"]))
    np.testing.assert_allclose(visual[1], visual[0], atol=2e-2 * np.abs(visual[0]).max())


def test_engines_are_found_by_name():
    assert engine_names()[: len(OF_BUNDLES)] == ["ort", "ort-cuda", "tensorrt"]
    assert "reference" in engine_names()
    with pytest.raises(InputError, match="unknown engine 'refrence': did you mean 'reference'"):
        open_segmenter("refrence")
    with pytest.raises(InputError, match="unknown engine 'xyz': there are ort, ort-cuda, tensorrt, compiled"):
        open_segmenter("xyz")


def test_an_engine_without_its_packages_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "agvas_train.reference", None)  # as if its import failed
    with pytest.raises(InputError, match=r"engine 'reference' is not installed: pip install agvas\[train\]"):
        open_segmenter("reference")
