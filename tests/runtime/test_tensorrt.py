"""TensorRT engines: what is refused without a GPU, which plans are trusted, and on a GPU that both runtimes agree."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from agvas_runtime import console
from agvas_runtime.bundle import Bundle, Manifest, write_manifest
from agvas_runtime.cli_build import build
from agvas_runtime.engines import store
from agvas_runtime.engines.device import Device, probe
from agvas_runtime.engines.native import open_engines
from agvas_runtime.engines.ort import CUDA, OrtEngine, available_providers
from agvas_runtime.engines.ort_bound import BoundEngine
from agvas_runtime.engines.private import LOCK, homes, locked, make_folders
from agvas_runtime.engines.records import Target
from agvas_runtime.engines.store import LIST, build_engines, find_plan, write_plan
from agvas_runtime.engines.tensorrt_build import (
    GIB,
    Built,
    Options,
    _share_profile,
    build_plan,
    default_workspace,
    needed_memory,
    opset_hint,
    profile_shapes,
)
from agvas_runtime.engines.tensorrt_run import TrtEngine
from agvas_runtime.engines.tensorrt_session import Session
from agvas_runtime.engines.tensorrt_tensors import converted
from agvas_runtime.errors import BundleError, EngineError, InputError
from tests.runtime.test_bundle import FIELDS

RANGES = {"T": (4, 16, 32)}
PLAN = b"a made-up plan, which is not native code"
DEVICE = Device(
    "NVIDIA H100 80GB HBM3", "9.0", 80 * GIB, False, driver="570.1, CUDA 12.8", tensorrt="10.9.0.34", cuda_python="12.8"
)
TARGET = Target.of(DEVICE)
STRANGER = 12345
"""A user who is not us."""


def save_graph(path, width=8):
    """A typed graph of opset 17: a product in half, softmax in float, two outputs, one of them int64."""
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["half", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["single"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["single"], ["y"], axis=-1),
        helper.make_node("ArgMax", ["single"], ["best"], axis=-1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T", width])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "T", width]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["B", "T"]),
        ],
        [helper.make_tensor("weight", TensorProto.FLOAT16, weight.shape, weight.tobytes(), raw=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    """A bundle with an engine plan for its one graph."""
    return make_bundle(tmp_path / "bundle")


def make_bundle(folder):
    (folder / "graphs").mkdir(parents=True)
    save_graph(folder / "graphs" / "spam.onnx")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "templates.json").write_text("{}")
    np.save(folder / "embeddings.npy", np.ones((20, 8), np.float16))
    spec = {
        "file": "graphs/spam.onnx",
        "inputs": [{"name": "x", "dtype": "float32", "shape": [1, "T", 8]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [1, "T", 8]}],
        "precision": "fp16",
        "opset": 17,
    }
    plan = {"precision": "fp16", "graphs": ["spam"], "ranges": {**RANGES, "other": (1, 1, 1)}}
    write_manifest(folder, Manifest.model_validate({**FIELDS, "graphs": {"spam": spec}, "engine_plan": plan}))
    return Bundle.open(folder)


def without_plan(bundle):
    write_manifest(bundle.folder, bundle.manifest.model_copy(update={"engine_plan": None}))
    return Bundle.open(bundle.folder)


def built(plan=PLAN):
    return Built(plan, b"timings", 1.5, 2**20, 2**30, None, ["a warning"])


def kept(bundle, target=TARGET):
    """A plan in its place, as a build leaves it; and where."""
    return write_plan(bundle, target, "spam", built())[0]


def refused(kind, reason, bundle, target=TARGET):
    with pytest.raises(kind, match=reason) as caught:
        find_plan(bundle, target, "spam")
    assert "\n" not in str(caught.value)


def test_a_machine_without_a_gpu_is_refused_at_once_and_in_one_line():
    code = "from agvas_runtime.engines.device import probe; print(probe())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=5, check=False)
    if done.returncode == 0:
        pytest.skip(f"a GPU is here: {done.stdout}")
    assert done.returncode == 1  # an exception, and not the end of the process
    assert done.stderr.splitlines()[-1].startswith("agvas_runtime.errors.EngineError: no ")


def run_build(capsys, *arguments):
    app = console.make_app("Test.")
    app.command()(build)
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(argument) for argument in arguments])
    return left.value.code, capsys.readouterr()


def test_building_without_a_gpu_is_one_line_and_leaves_nothing(bundle, capsys):
    try:
        pytest.skip(f"a GPU is here: {probe().gpu}")
    except EngineError as error:
        reason = str(error)
    code, shown = run_build(capsys, bundle.folder)
    assert (code, shown.out, shown.err) == (1, "", f"error: {reason}\n")
    assert not (bundle.folder / "engines").exists()
    with pytest.raises(EngineError, match=r"^no "):
        open_engines(bundle, "tensorrt", ["spam"])


def test_a_bundle_without_an_engine_plan_says_how_to_get_one(bundle, capsys):
    plain = without_plan(bundle)
    code, shown = run_build(capsys, plain.folder)
    assert code == 2
    assert "agvas-export CHECKPOINT --trt fp16 --defer" in shown.err
    for use in (lambda opened: open_engines(opened, "tensorrt", ["spam"]), lambda opened: list(build_engines(opened))):
        with pytest.raises(InputError, match="not made for TensorRT"):
            use(plain)


def test_a_kept_plan_comes_back_and_says_what_it_is(bundle):
    path = kept(bundle)
    assert path.parent.name == "nvidia-h100-80gb-hbm3-10.9.0.34"
    found, entry = find_plan(bundle, TARGET, "spam")
    assert found == path
    assert found.read_bytes() == PLAN
    assert entry.sources == {"graphs/spam.onnx": bundle.manifest.files["graphs/spam.onnx"].sha256}
    assert entry.ranges == RANGES  # those of its own dimensions
    assert (entry.precision, entry.size, entry.warnings) == ("fp16", len(PLAN), ["a warning"])
    assert not [path.name for path in path.parent.iterdir() if path.name.endswith(".part")]
    assert Bundle.open(bundle.folder).manifest == bundle.manifest  # engines are no part of the bundle


def test_engines_are_private_whatever_the_umask(bundle):
    mask = os.umask(0)
    try:
        path = kept(bundle)
    finally:
        os.umask(mask)
    for folder in (path.parent, path.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_a_plan_that_is_not_listed_is_refused(bundle):
    refused(EngineError, r"no engines for NVIDIA H100 80GB HBM3 with TensorRT 10.9.0.34 .*run: agvas-runtime", bundle)
    path = kept(bundle)
    (path.parent / LIST).unlink()
    refused(EngineError, "no engines.json, so nothing here can be trusted", bundle)
    (path.parent / LIST).write_text(json.dumps({"target": TARGET.model_dump(), "plans": {}}))
    (path.parent / LIST).chmod(0o600)
    refused(EngineError, "lists no plan of graph spam: run: agvas-runtime build", bundle)
    (path.parent / LIST).write_text("[")
    refused(BundleError, "engines.json cannot be read", bundle)


@pytest.mark.parametrize("content", [PLAN[:-1] + b"E", PLAN + b"E", b""])
def test_an_altered_plan_is_refused(bundle, content):
    kept(bundle).write_bytes(content)
    refused(BundleError, r"spam.plan: is altered \(.*engines.json says .*: run: agvas-runtime build", bundle)


def test_a_missing_plan_is_refused(bundle):
    kept(bundle).unlink()
    refused(EngineError, "spam.plan: is missing: run", bundle)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("gpu", "NVIDIA L4", "no engines for NVIDIA L4 .*there are: nvidia-h100-80gb-hbm3-10.9.0.34"),
        ("tensorrt", "10.10.0.1", "no engines for .* with TensorRT 10.10.0.1"),
        ("compute_capability", "9.1", "built for compute capability 9.0, here it is 9.1: run: agvas-runtime build"),
        ("driver", "580.1, CUDA 13.0", "built for driver 570.1, CUDA 12.8, here it is 580.1, CUDA 13.0"),
    ],
)
def test_a_plan_for_another_device_is_refused(bundle, field, value, reason):
    kept(bundle)
    refused(EngineError, reason, bundle, TARGET.model_copy(update={field: value}))


def test_a_plan_under_another_devices_name_is_refused(bundle):
    path = kept(bundle)
    other = TARGET.model_copy(update={"gpu": "NVIDIA L4"})
    path.parent.rename(path.parent.parent / other.folder)
    refused(EngineError, "built for gpu NVIDIA H100 80GB HBM3, here it is NVIDIA L4", bundle, other)


def test_a_plan_of_another_graph_precision_or_range_is_refused(bundle):
    kept(bundle)
    plan = bundle.manifest.engine_plan
    for update, reason in (
        ({"ranges": {"T": (4, 16, 64)}}, "built for other sizes"),
        ({"precision": "int8"}, "built as fp16, the bundle wants int8"),
    ):
        changed = plan.model_copy(update=update)
        other = replace(bundle, manifest=bundle.manifest.model_copy(update={"engine_plan": changed}))
        refused(EngineError, reason, other)
    save_graph(bundle.folder / "graphs" / "spam.onnx", width=16)
    write_manifest(bundle.folder, bundle.manifest)
    refused(EngineError, "spam.plan: built from another version of the graph", Bundle.open(bundle.folder))


def test_links_are_refused(bundle, tmp_path):
    path = kept(bundle)
    (tmp_path / "plan").write_bytes(PLAN)
    path.unlink()
    path.symlink_to(tmp_path / "plan")
    refused(BundleError, r"spam.plan: is a link; engines are native code", bundle)
    for folder in (path.parent, path.parent.parent):
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
        refused(BundleError, "is a link", bundle)
        with pytest.raises(BundleError, match="is a link"):
            write_plan(bundle, TARGET, "spam", built())
        folder.unlink()
        (tmp_path / "moved").rename(folder)


def test_what_others_can_write_is_refused(bundle):
    path = kept(bundle)
    for open_to_others, mode in ((path.parent, 0o770), (path.parent.parent, 0o702), (path, 0o620)):
        before = open_to_others.stat().st_mode & 0o777
        open_to_others.chmod(mode)
        refused(BundleError, "is open to other users; if its content is yours: chmod", bundle)
        open_to_others.chmod(before)
    assert find_plan(bundle, TARGET, "spam")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_refused(bundle):
    path = kept(bundle)
    for foreign in (path, path.parent / LIST, path.parent, path.parent.parent):
        os.chown(foreign, 12345, -1)
        refused(BundleError, "belongs to user 12345, not to you", bundle)
        os.chown(foreign, 0, -1)


@contextmanager
def as_stranger():
    """As another user, who can do less than root."""
    os.seteuid(STRANGER)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shown_bundle(monkeypatch):
    """A bundle of root's that everybody can read, and a stranger's cache."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "cache").mkdir()
        os.chown(Path(folder) / "cache", STRANGER, -1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(Path(folder) / "cache"))
        yield make_bundle(Path(folder) / "bundle")


def show(path):
    """Let everybody read a plan, as in an image that root made."""
    for folder in (path.parent, path.parent.parent):
        folder.chmod(0o755)
    for file in path.parent.iterdir():
        file.chmod(0o644)


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@root_only
def test_a_bundle_that_cannot_be_written_to_has_its_engines_in_the_cache(shown_bundle):
    with as_stranger():
        path = kept(shown_bundle)
        assert path.is_relative_to(homes(shown_bundle)[1])
        assert path.parent.parent.name == shown_bundle.manifest.content_sha256[:16]
        assert find_plan(shown_bundle, TARGET, "spam")[0] == path
    assert not (shown_bundle.folder / "engines").exists()


@root_only
def test_engines_of_root_are_taken_by_others_and_building_then_writes_nothing(shown_bundle, monkeypatch):
    path = kept(shown_bundle)
    show(path)
    monkeypatch.setattr(store, "probe", lambda: DEVICE)
    with as_stranger():
        assert [(built.path, built.kept) for built in build_engines(shown_bundle)] == [(path, True)]
    assert not (path.parent.parent / LOCK).exists()
    assert not homes(shown_bundle)[1].exists()
    path.chmod(0o646)
    with as_stranger():
        refused(BundleError, r"spam.plan: is open to other users; .*chmod go-w", shown_bundle)


@root_only
def test_engines_that_cannot_be_looked_at_are_one_line(shown_bundle):
    kept(shown_bundle)
    with as_stranger():
        refused(EngineError, "cannot be read: Permission denied: run: agvas-runtime build", shown_bundle)


@root_only
def test_engines_of_another_user_are_replaced_by_ones_in_the_cache(shown_bundle):
    path = kept(shown_bundle)
    for item in (path.parent.parent, path.parent, *path.parent.iterdir()):
        os.chown(item, STRANGER + 1, -1)
    with as_stranger():
        own = kept(shown_bundle)
        assert find_plan(shown_bundle, TARGET, "spam")[0] == own != path


def test_a_second_build_is_refused_or_waits(bundle):
    home = homes(bundle)[0]
    make_folders(home, TARGET.folder)
    with locked(home), pytest.raises(EngineError, match="another build of these engines is running"), locked(home):
        pass
    first, asked = locked(home), []

    def waiting():
        asked.append(True)
        if len(asked) == 3:
            first.__exit__(None, None, None)

    first.__enter__()
    with locked(home, waiting):
        assert len(asked) == 3


def test_after_waiting_nothing_is_built_that_the_other_build_made(bundle, monkeypatch):
    monkeypatch.setattr(store, "probe", lambda: DEVICE)
    home = homes(bundle)[0]
    make_folders(home, TARGET.folder)
    other = locked(home)
    other.__enter__()

    def waiting():
        kept(bundle)
        other.__exit__(None, None, None)

    assert [built.kept for built in build_engines(bundle, waiting=waiting)] == [True]


def test_one_graph_in_fp8_is_refused_by_an_old_tensorrt_in_a_plan_of_fp16_too(bundle, monkeypatch):
    assert bundle.manifest.engine_plan.precision == "fp16"
    graphs = bundle.manifest.graphs
    graphs["spam"] = graphs["spam"].model_copy(update={"precision": "fp8"})
    monkeypatch.setattr(store, "probe", lambda: replace(DEVICE, tensorrt="10.5.0.18"))
    with pytest.raises(EngineError, match=r"graph spam: fp8 needs TensorRT 10\.6 or later, this is 10\.5"):
        list(build_engines(bundle))


def test_no_timing_cache_is_written_where_there_is_none(bundle):
    path, _ = write_plan(bundle, TARGET, "spam", replace(built(), timing_cache=b""))
    assert sorted(file.name for file in path.parent.iterdir()) == [LIST, path.name]


@pytest.mark.parametrize("refused", ["Attention", "no importer registered for op: RotaryEmbedding"])
def test_operators_of_opset_23_come_with_the_way_around_them(refused):
    assert opset_hint(refused) == "; export with --opset 17 (19 for int8 and fp8)"


def test_other_operators_come_without_that():
    assert opset_hint("MultiHeadAttention") == opset_hint("Unheard") == ""


def test_feeds_are_converted_to_the_graphs_dtype_where_they_fit():
    assert converted("x", [1.0, 1e6], np.dtype(np.float16)).tolist() == [1.0, np.inf]
    assert converted("x", np.array(3), np.dtype(np.int32)).shape == ()
    assert converted("x", np.ones((4, 3)).T, np.dtype(np.float64)).flags.c_contiguous
    for feed, reason in ((np.array([2**40]), "does not fit int32"), (np.array([0.5]), "given float64, expected int32")):
        with pytest.raises(EngineError, match=f"^graph llm: input rows: .*{reason}"):
            converted("graph llm: input rows", feed, np.dtype(np.int32))


def test_a_rebuilt_plan_replaces_the_old_one(bundle):
    kept(bundle)
    write_plan(bundle, TARGET, "spam", built(b"another plan"))
    assert find_plan(bundle, TARGET, "spam")[0].read_bytes() == b"another plan"


def test_profile_shapes_come_from_the_ranges_of_the_named_dimensions():
    inputs = {"x": [1, "T", 8], "bias": [1, 1, "T", "T"], "rows": ["K"], "alpha": [], "fixed": [3, 4]}
    assert profile_shapes("llm", inputs, {**RANGES, "K": (1, 30, 30)}) == {
        "x": ((1, 4, 8), (1, 16, 8), (1, 32, 8)),
        "bias": ((1, 1, 4, 4), (1, 1, 16, 16), (1, 1, 32, 32)),
        "rows": ((1,), (30,), (30,)),
    }


def test_a_dimension_without_a_range_is_named():
    with pytest.raises(InputError, match=r"graph llm: dimension 'K' of input rows has no range \(there are: T\)"):
        profile_shapes("llm", {"rows": ["K"]}, RANGES)


@pytest.mark.parametrize("limits", [(0, 1, 2), (3, 2, 4), (1, 3, 2)])
def test_a_range_that_falls_is_named(limits):
    with pytest.raises(InputError, match="graph llm: range of dimension 'T' is"):
        profile_shapes("llm", {"x": ["T"]}, {"T": limits})


def test_a_small_device_keeps_more_of_its_memory_for_others():
    assert default_workspace(40 * GIB, 80 * GIB) == 20 * GIB
    assert default_workspace(4 * GIB, 8 * GIB) == 1 * GIB
    assert needed_memory(GIB, integrated=True) > 3 * GIB > 2 * GIB > needed_memory(GIB, integrated=False) > GIB


@pytest.mark.parametrize("version", ["8.6.1", "10.5.0.18"])
def test_fp8_is_refused_before_a_tensorrt_that_has_scales_by_channel(tmp_path, version):
    old = replace(DEVICE, tensorrt=version)
    with pytest.raises(EngineError) as caught:
        build_plan(tmp_path / "x.onnx", old, Options(precision="fp8"), name="llm", weight_bytes=1)
    assert str(caught.value) == f"graph llm: fp8 needs TensorRT 10.6 or later, this is {version}"


def test_contexts_share_a_profile_where_tensorrt_asks_to_be_told():
    asked = []
    config = SimpleNamespace(set_preview_feature=lambda *given: asked.append(given))
    _share_profile(SimpleNamespace(PreviewFeature=SimpleNamespace(PROFILE_SHARING_0806=0)), config)
    _share_profile(SimpleNamespace(PreviewFeature=SimpleNamespace()), config)
    _share_profile(SimpleNamespace(), config)
    assert asked == [(0, True)]


# From here on: only where there is a GPU with TensorRT.


@pytest.fixture
def device() -> Device:
    try:
        return probe()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.fixture
def session(device):
    opened = Session()
    yield opened
    opened.close()


@pytest.fixture
def graph(tmp_path):
    return save_graph(tmp_path / "small.onnx")


def small_engine(graph, device, session, name="small"):
    options = Options(ranges={"B": (1, 1, 2), **RANGES})
    made = build_plan(graph, device, options, name=name, weight_bytes=graph.stat().st_size)
    return TrtEngine(name, made.plan, session)


def same(got, expected):
    """Equal up to half precision, which may also choose another of two nearly equal best."""
    np.testing.assert_allclose(np.asarray(got["y"]), expected["y"], atol=4e-3)
    chosen = np.take_along_axis(expected["y"], np.asarray(got["best"])[..., None].astype(np.int64), axis=-1)
    np.testing.assert_allclose(chosen[..., 0], expected["y"].max(axis=-1), atol=4e-3)


@pytest.mark.gpu
def test_a_built_graph_gives_what_onnx_runtime_gives_at_every_size(graph, device, session, rng):
    engine, yardstick = small_engine(graph, device, session), OrtEngine(graph)
    for batch, length in ((1, 4), (1, 16), (2, 32), (1, 16), (1, 4)):
        x = rng.standard_normal((batch, length, 8)).astype(np.float32)
        for _ in range(3):  # enqueued, then replayed
            same(engine.run({"x": x}), yardstick.run({"x": x}))
        assert engine.replays_graph


@pytest.mark.gpu
def test_outputs_feed_the_next_engine(graph, device, session, rng):
    first, second = (small_engine(graph, device, session, name) for name in ("first", "second"))
    yardstick = OrtEngine(graph)
    for batch in (1, 2):
        x = rng.standard_normal((batch, 6, 8)).astype(np.float32)
        between = yardstick.run({"x": x})["y"]
        for _ in range(2):
            same(second.run({"x": first.run({"x": x})["y"]}), yardstick.run({"x": between}))
    again = first.run({"x": first.run({"x": x})["y"]})  # its own output, which the run overwrites
    same(again, yardstick.run({"x": between}))


@pytest.mark.gpu
def test_tensorrt_and_onnx_runtime_feed_each_other_on_the_device(graph, device, session, rng):
    if CUDA not in available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    native, bound, yardstick = small_engine(graph, device, session), BoundEngine(graph), OrtEngine(graph)
    x = rng.standard_normal((1, 6, 8)).astype(np.float32)
    between = native.run({"x": x})["y"]
    same(bound.run({"x": between}), yardstick.run({"x": np.asarray(between)}))
    between = bound.run({"x": x})["y"]
    same(native.run({"x": between}), yardstick.run({"x": np.asarray(between)}))


@pytest.mark.gpu
def test_a_read_only_array_is_taken_to_the_device_once(graph, device, session, rng):
    engine, yardstick = small_engine(graph, device, session), OrtEngine(graph)
    x = rng.standard_normal((1, 6, 8)).astype(np.float32)
    constant, expected = x.view(), yardstick.run({"x": x})
    constant.setflags(write=False)
    same(engine.run({"x": constant}), expected)
    x += 1
    same(engine.run({"x": constant}), expected)
    same(engine.run({"x": x}), yardstick.run({"x": x}))


@pytest.mark.gpu
def test_wrong_feeds_name_the_graph_the_input_and_what_is_allowed(graph, device, session):
    engine = small_engine(graph, device, session)
    with pytest.raises(EngineError, match=r"graph small: input x: given float32\[1, 33, 8\], expected .*4\.\.32, 8\]"):
        engine.run({"x": np.zeros((1, 33, 8), np.float32)})
    with pytest.raises(EngineError, match="graph small: given z, expected x"):
        engine.run({"z": np.zeros(1)})


@pytest.mark.gpu
def test_an_output_is_refused_once_its_engine_has_run_again_or_is_closed(graph, device, session):
    engine = small_engine(graph, device, session)
    old = engine.run({"x": np.zeros((1, 4, 8), np.float32)})["y"]
    new = engine.run({"x": np.ones((1, 4, 8), np.float32)})["y"]
    with pytest.raises(EngineError, match="output y of an earlier run is overwritten"):
        np.asarray(old)
    assert np.asarray(new).shape == (1, 4, 8)
    engine.close()
    with pytest.raises(EngineError, match="output y"):
        np.asarray(new)


@pytest.mark.gpu
def test_a_graph_that_tensorrt_does_not_know_is_one_line_with_its_node(tmp_path, device):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("Unheard", ["x"], ["y"], name="odd", domain="somewhere")
    strange = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("somewhere", 1)]
    onnx.save(helper.make_model(strange, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
    with pytest.raises(EngineError, match=r"^graph odd: TensorRT [\d.]+ cannot take it: node [^\n]*$"):
        build_plan(tmp_path / "odd.onnx", device, Options(), name="odd", weight_bytes=1)


@pytest.mark.gpu
def test_building_a_bundle_keeps_what_is_up_to_date(bundle, device, capsys, rng):
    code, shown = run_build(capsys, bundle.folder, "--json")
    assert code == 0
    assert [row["kept"] for row in json.loads(shown.out)["engines"]] == [False]
    assert [graph.kept for graph in build_engines(bundle)] == [True]
    assert [graph.kept for graph in build_engines(bundle, force=True)] == [False]
    x = rng.standard_normal((1, 9, 8)).astype(np.float32)
    engines = open_engines(bundle, "tensorrt", ["spam"])
    same(engines["spam"].run({"x": x}), OrtEngine(bundle.graph_path("spam")).run({"x": x}))
    engines["spam"].close()


def typed_bundle(tmp_path):
    """The embedded checkpoint, exported for TensorRT in half precision, without engines."""
    folder = tmp_path / "typed"
    command = [sys.executable, "-c", "from agvas_export.cli import main; main()", "--trt", "fp16", "--defer"]
    done = subprocess.run([*command, "--out", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Bundle.open(folder)


@pytest.mark.gpu
def test_the_embedded_bundles_engines_give_what_onnx_runtime_gives(tmp_path, device, rng):
    bundle = typed_bundle(tmp_path)
    list(build_engines(bundle))
    engines = open_engines(bundle, "tensorrt", list(bundle.manifest.engine_plan.graphs))
    for name in bundle.manifest.engine_plan.graphs:
        feeds = {}
        for tensor, info in engines[name].inputs.items():
            noise = rng.standard_normal(info.usual) if info.dtype.kind == "f" else np.zeros(info.usual)
            feeds[tensor] = noise.astype(info.dtype)
        expected = OrtEngine(bundle.graph_path(name)).run(
            {spec.name: feeds[spec.name].astype(spec.dtype) for spec in bundle.manifest.graphs[name].inputs}
        )
        for output, value in engines[name].run(feeds).items():
            if expected[output].dtype.kind == "f":
                scale = np.abs(expected[output].astype(np.float64)).max()
                np.testing.assert_allclose(np.asarray(value), expected[output], atol=2e-2 * scale, err_msg=name)
    for name in bundle.manifest.engine_plan.graphs:
        engines[name].close()
