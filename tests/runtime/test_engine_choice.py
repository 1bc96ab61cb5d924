"""Which engine runs a bundle: ONNX Runtime where TensorRT cannot be had; and what a segmenter does with its engines."""

import json
import mmap
import shutil
import threading

import numpy as np
import onnxruntime
import pytest

from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.engines import native, release, store
from agvas_runtime.engines.choice import Stopped, build_missing, open_bundle
from agvas_runtime.engines.device import Device, probe
from agvas_runtime.engines.ort import CPU, CUDA, OrtEngine, available_providers
from agvas_runtime.engines.private import homes, locked, make_folders
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.manifest import EnginePlan, TensorSpec
from agvas_runtime.modes import Request
from agvas_runtime.pipeline import GRAPHS, check_sizes
from agvas_runtime.result import AnswerKind
from agvas_runtime.segment_files import Task, segment_files
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.verdict import Recipe
from tests.runtime.test_segmenter import _answering

RANGES = {"B": (1, 1, 1), "G": (1, 1, 4), "T": (200, 300, 400), "R": (1, 100, 300), "E": (1, 100, 300)}
DEVICE = Device("NVIDIA L4", "8.9", 1 << 34, False, driver="570.1, CUDA 12.8", tensorrt="10.9.0.34", cuda_python="12.8")


@pytest.fixture
def made_for_tensorrt(tmp_path, monkeypatch):
    """The embedded bundle as if its graphs were typed; without engines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(default_bundle_path(), tmp_path / "bundle")
    plan = EnginePlan(precision="fp16", graphs=list(GRAPHS), ranges=RANGES)
    write_manifest(folder, Bundle.open(folder).manifest.model_copy(update={"engine_plan": plan}))
    return Bundle.open(folder)


def without_gpu():
    try:
        pytest.skip(f"a GPU is here: {probe().gpu}")
    except EngineError as error:
        return str(error)


def only_note(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ONNX Runtime runs this bundle on the CPU, which was made for TensorRT: ")
    return line


@pytest.mark.parametrize("build_unless", [None, threading.Event()])
def test_auto_takes_onnx_runtime_after_one_note_where_there_is_no_gpu(made_for_tensorrt, capsys, build_unless):
    reason = without_gpu()
    segmenter = open_bundle("auto", made_for_tensorrt.folder, 1, build_unless)
    assert only_note(capsys).endswith(reason)
    assert {type(engine) for engine in segmenter.pipeline.engines.values()} == {OrtEngine}


def test_auto_names_the_build_where_engines_are_missing_and_builds_nothing(made_for_tensorrt, capsys, monkeypatch):
    monkeypatch.setattr(native, "probe", lambda: DEVICE)
    open_bundle("auto", made_for_tensorrt.folder, 1)
    assert only_note(capsys).endswith(f"(there are: none): run: agvas-runtime build {made_for_tensorrt.folder}")
    assert not (made_for_tensorrt.folder / "engines").exists()


def test_tensorrt_by_name_fails_where_it_cannot_be_had(made_for_tensorrt, capsys):
    reason = without_gpu()
    with pytest.raises(EngineError) as caught:
        open_bundle("tensorrt", made_for_tensorrt.folder, 1)
    assert str(caught.value) == reason
    with pytest.raises(InputError, match="not made for TensorRT"):
        open_bundle("tensorrt", None, 1)
    with pytest.raises(InputError, match="--engine: found 'cuda', expected auto, ort, ort-cuda, tensorrt"):
        open_bundle("cuda", None)
    assert capsys.readouterr().err == ""


def without_cuda():
    if CUDA in available_providers():
        pytest.skip("this ONNX Runtime has CUDA")


def test_cuda_by_name_fails_where_it_cannot_be_had(capsys):
    without_cuda()
    with pytest.raises(EngineError, match=r"no CUDAExecutionProvider here .* pip install 'agvas\[gpu\]'"):
        open_bundle("ort-cuda", None, 1)
    assert capsys.readouterr().err == ""


def test_auto_takes_no_cuda_that_nobody_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])  # as in a build with CUDA
    opened = open_bundle("auto", None, 1)
    assert {type(engine) for engine in opened.pipeline.engines.values()} == {OrtEngine}
    assert capsys.readouterr().err == ""


def test_graphs_beside_the_native_ones_run_on_cuda_or_not_at_all(made_for_tensorrt, monkeypatch, capsys):
    without_cuda()
    monkeypatch.setattr(native, "read_plans", lambda *_: {})  # as if the plan named none of the graphs
    with pytest.raises(EngineError, match="no CUDAExecutionProvider here"):
        open_bundle("tensorrt", made_for_tensorrt.folder, 1)
    opened = open_bundle("auto", made_for_tensorrt.folder, 1)
    assert "CUDAExecutionProvider" in only_note(capsys)
    assert {type(engine) for engine in opened.pipeline.engines.values()} == {OrtEngine}


def test_segmenting_files_falls_back_too(made_for_tensorrt, capsys, photo):
    without_gpu()
    task = Task(made_for_tensorrt.folder, Request(), Recipe(), 1, None, engine="auto")
    assert segment_files([photo], task, as_json=True) == 0
    shown = capsys.readouterr()
    assert [row["file"] for row in json.loads(shown.out)] == [str(photo)]
    assert "made for TensorRT" in shown.err


def test_a_build_stops_before_the_next_graph(made_for_tensorrt, monkeypatch):
    monkeypatch.setattr(store, "probe", lambda: DEVICE)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Stopped):
        build_missing(made_for_tensorrt, stopped)


def test_waiting_for_another_build_is_told_once_and_stops(made_for_tensorrt, monkeypatch, capsys):
    monkeypatch.setattr(store, "probe", lambda: DEVICE)
    stopped = threading.Event()
    stopped.set()
    home = homes(made_for_tensorrt)[0]
    make_folders(home, "nvidia-l4-10.9.0.34")
    with locked(home), pytest.raises(Stopped):
        build_missing(made_for_tensorrt, stopped)
    told = f"{made_for_tensorrt.folder}: waiting for another process that builds its engines"
    assert capsys.readouterr().err.splitlines() == [told]


def test_an_instruction_that_the_engines_are_too_small_for_is_the_users_error(segmenter):
    limited = Segmenter(segmenter.bundle, segmenter.pipeline.engines, RANGES | {"T": (1, 2, 3)})
    with pytest.raises(
        InputError,
        match=r"instruction: its pass has \d+ tokens behind the image, the engines take 1..3; use --engine ort",
    ):
        limited.segment(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("shape", "reason"), [((3, 4), None), ((3, 9), None), ((3, 3), "has 3 tokens .*"), ((3, 10), "has 10 tokens .*")]
)
def test_sizes_are_compared_with_the_ranges_of_named_dimensions(shape, reason):
    inputs = [TensorSpec(name="bias", dtype="float32", shape=["X", "T"])]
    if reason is None:
        check_sizes(inputs, {"bias": np.empty(shape), "stranger": np.empty(99)}, {"T": (4, 5, 9)})
        return
    with pytest.raises(InputError, match=f"{reason}, the engines take 4..9"):
        check_sizes(inputs, {"bias": np.empty(shape)}, {"T": (4, 5, 9)})


class Counted:
    """A real engine that counts its runs, and whose close may fail."""

    def __init__(self, engine, fails=False):
        self.engine, self.fails, self.runs, self.closed = engine, fails, 0, False

    def run(self, feeds):
        self.runs += 1
        return self.engine.run(feeds)

    def synchronize(self):
        self.engine.synchronize()

    def close(self):
        self.closed = True
        if self.fails:
            raise EngineError("the device is lost")


def test_warming_runs_the_decoder_whatever_the_answer(segmenter):
    first = segmenter.prompter.answer("Nothing unusual is found in this image.", anchors=False)[0]
    rejecting = _answering(segmenter, first)
    assert rejecting.segment(np.zeros((8, 8, 3), np.uint8)).answer_kind is AnswerKind.REJECTED
    decoder = Counted(segmenter.pipeline.engines["decoder"])
    rejecting.pipeline.engines["decoder"] = decoder
    rejecting.warm()
    assert decoder.runs == 1


def test_closing_goes_on_where_an_engine_fails(segmenter):
    engines = {name: Counted(engine, fails=name == GRAPHS[0]) for name, engine in segmenter.pipeline.engines.items()}
    with pytest.raises(EngineError, match="the device is lost"):
        Segmenter(segmenter.bundle, engines).close()
    assert all(engine.closed for engine in engines.values())


def test_engines_are_closed_where_the_rest_of_the_bundle_does_not_fit(tmp_path, monkeypatch):
    opened = []

    def counted(*arguments):
        opened.append(Counted(OrtEngine(*arguments), fails=True))
        return opened[-1]

    folder = shutil.copytree(default_bundle_path(), tmp_path / "bundle")
    (folder / "templates.json").write_text("{}")
    write_manifest(folder, Bundle.open(default_bundle_path()).manifest)
    monkeypatch.setattr(native, "OrtEngine", counted)
    with pytest.raises(BundleError, match=r"templates\.json: sources"):
        Segmenter.open(folder, threads=1)
    assert len(opened) == len(GRAPHS)
    assert all(engine.closed for engine in opened)


@pytest.mark.parametrize("engine", ["ort", "otr"])
def test_plans_are_closed_whatever_opens(engine):
    plan = mmap.mmap(-1, 16)
    if engine == "ort":
        native.open_engines(Bundle.open(default_bundle_path()), engine, (), 1, {"llm": plan})
    else:
        with pytest.raises(InputError, match="does not run bundles"):
            native.open_engines(Bundle.open(default_bundle_path()), engine, (), 1, {"llm": plan})
    assert plan.closed


def test_release_raises_the_first_error_after_every_step():
    done = []

    def fails(number):
        done.append(number)
        raise EngineError(f"step {number}")

    with pytest.raises(EngineError, match="step 1"):
        release(lambda: done.append(0), lambda: fails(1), lambda: fails(2), lambda: done.append(3))
    assert done == [0, 1, 2, 3]
