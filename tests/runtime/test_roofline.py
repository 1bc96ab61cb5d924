"""`agvas-runtime roofline`: what is counted, what it is put beside, what is shown. No test asks how fast it is."""

import importlib.util
import io
import json
import math
import shutil
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.cli import app
from agvas_runtime.console import run
from agvas_runtime.errors import BundleError
from agvas_runtime.manifest import Cost, GraphSpec, TensorSpec
from agvas_runtime.roofline import peaks, report
from agvas_runtime.roofline.parts import Part, example_feeds
from agvas_runtime.roofline.peaks import Peaks, measure_peaks
from agvas_runtime.roofline.plot import draw_plot
from agvas_runtime.roofline.report import figures, measure, print_report
from tests.conftest import REPOSITORY

ROWS, WIDTH = 192, 256
PEAKS = Peaks(fp32=1e9, int8=4e9, memory=1e8)


def product_graph(folder, name, precision):
    """One product [B, T, 256] x [256, 256] in a bundle's folder, its weights beside it."""
    weight = np.ones((WIDTH, WIDTH), np.int8 if precision == "int8" else np.float32)
    middle = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if precision == "int8":
        middle = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["q", "w", "zero"], ["whole"]),
            helper.make_node("Cast", ["whole"], ["typed"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["typed", "scale"], ["y"]),
        ]
    ends = [[helper.make_tensor_value_info(end, TensorProto.FLOAT, ["B", "T", WIDTH])] for end in "xy"]
    ends[0].append(helper.make_tensor_value_info("places", TensorProto.INT64, ["T"]))
    graph = helper.make_graph(middle, name, *ends, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = {"save_as_external_data": True, "location": f"{name}.data", "size_threshold": 0}
    onnx.save(model, folder / "graphs" / f"{name}.onnx", **options)
    rows = 1 if name == "decode" else ROWS
    flops = 2 * rows * WIDTH * WIDTH
    return GraphSpec(
        file=f"graphs/{name}.onnx",
        data=[f"graphs/{name}.data"],
        inputs=[
            TensorSpec(name="x", dtype="float32", shape=["B", "T", WIDTH]),
            TensorSpec(name="places", dtype="int64", shape=["T"]),
        ],
        outputs=[TensorSpec(name="y", dtype="float32", shape=["B", "T", WIDTH])],
        precision=precision,
        opset=17,
        cost=Cost(flops=flops, matrix_flops=flops, sizes={"B": 1, "T": rows}),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Three products as the graphs of a bundle: two of a frame, one of a token."""
    folder = tmp_path_factory.mktemp("roofline") / "bundle"
    (folder / "graphs").mkdir(parents=True)
    for name in ("tokenizer.json", "templates.json", "embeddings.npy"):
        shutil.copy(default_bundle_path() / name, folder)
    kinds = {"spam": "fp32", "llm": "int8", "decode": "int8"}
    graphs = {name: product_graph(folder, name, precision) for name, precision in kinds.items()}
    manifest = Bundle.open(default_bundle_path()).manifest
    write_manifest(folder, manifest.model_copy(update={"name": "products", "graphs": graphs, "files": {}}))
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def measured(bundle):
    """A whole report, its peaks measured in a shorter time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "measure_peaks", partial(measure_peaks, seconds=0.2))
        patch.setattr(peaks, "MEMORY_BYTES", 2**26)
        return measure(bundle, runs=20)


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs `agvas-runtime roofline` with peaks that take no time; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(report, "measure_peaks", lambda threads: PEAKS)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            run(app, ["roofline", *map(str, arguments)])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


def without_counts(bundle, folder):
    """The bundle as it was before anything was counted."""
    shutil.copytree(bundle.folder, folder)
    old = {name: spec.model_copy(update={"cost": None}) for name, spec in bundle.manifest.graphs.items()}
    write_manifest(folder, bundle.manifest.model_copy(update={"graphs": old, "files": {}}))
    return folder


def test_the_peaks_are_of_a_machine(measured):
    found = measured["peaks"]
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert 0.2 < found["int8_flops_per_s"] / found["fp32_flops_per_s"] < 40
    assert 0.1 < found["fp32_flops_per_s"] / found["memory_bytes_per_s"] < 1000


def test_of_two_measurements_the_best_of_each_counts():
    assert Peaks(1.0, 5.0, 3.0).best(Peaks(2.0, 4.0, 3.0)) == Peaks(2.0, 5.0, 3.0)


def test_the_peaks_graphs_are_what_their_script_makes():
    spec = importlib.util.spec_from_file_location("peak_graphs", REPOSITORY / "tools" / "peak_graphs.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for precision in ("fp32", "int8"):
        model = onnx.load(script.FOLDER / f"product_{precision}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert model == script.product(precision)


def test_every_part_has_a_share_of_what_is_possible(measured):
    parts = {part["name"]: part for part in measured["parts"]}
    assert list(parts) == ["spam", "llm", "decode"]
    for part in parts.values():
        assert 0 < part["best_ms"] <= part["ms"]
        assert 0 < part["peak_share"] <= part["roof_share"]


def test_bytes_are_weights_and_the_tensors_of_a_run(measured):
    spam, llm, decode = measured["parts"]
    assert (spam["weight_bytes"], llm["weight_bytes"]) == (4 * WIDTH * WIDTH, WIDTH * WIDTH)
    assert spam["tensor_bytes"] == llm["tensor_bytes"] == 2 * 4 * ROWS * WIDTH + 8 * ROWS
    assert decode["bytes"] == WIDTH * WIDTH + 2 * 4 * WIDTH + 8


def test_a_frame_is_the_sum_of_its_parts_and_a_token_stands_apart(measured):
    *parts, decode = measured["parts"]
    assert [part["per"] for part in measured["parts"]] == ["frame", "frame", "token"]
    for key in ("flops", "bytes", "ms", "best_ms", "arithmetic_ms", "roof_ms"):
        assert measured["frame"][key] == pytest.approx(sum(part[key] for part in parts))
    assert decode["flops"] == 2 * WIDTH * WIDTH


def test_arithmetic_bounds_a_part_with_many_flops_to_a_byte():
    found = figures(Part("spam", "fp32", 10**8, 10**8, 900_000, 100_000, ms=220.0, best_ms=200.0), PEAKS)
    assert (found["bound"], found["arithmetic_ms"], found["memory_ms"]) == ("arithmetic", 100.0, 10.0)
    assert (found["peak_share"], found["roof_share"], found["flops_per_s"]) == (0.5, 0.5, 5e8)


def test_memory_bounds_a_part_with_few():
    found = figures(Part("decode", "fp32", 10**6, 10**6, 900_000, 100_000, ms=23.0, best_ms=20.0), PEAKS)
    assert (found["bound"], found["arithmetic_ms"], found["roof_ms"]) == ("memory", 1.0, 10.0)
    assert (found["peak_share"], found["roof_share"], found["flops_per_byte"]) == (0.05, 0.5, 1.0)


def test_what_a_quantised_graph_computes_in_float_is_measured_against_floats_peak():
    found = figures(Part("llm", "int8", 5 * 10**8, 4 * 10**8, 1, 1, ms=200.0, best_ms=200.0), PEAKS)
    assert found["arithmetic_ms"] == pytest.approx(100.0 + 100.0)


def test_the_feeds_are_as_long_as_what_was_counted(bundle):
    feeds = example_feeds(bundle)
    assert feeds["llm"]["x"].shape == (1, ROWS, WIDTH)
    assert feeds["decode"]["x"].shape == (1, 1, WIDTH)
    assert feeds["llm"]["x"].dtype == np.float32
    assert feeds["llm"]["x"].std() > 0.5
    assert (feeds["llm"]["places"].dtype, feeds["llm"]["places"].any()) == (np.int64, np.False_)


def test_a_size_that_was_not_counted_is_named(bundle):
    spec = bundle.manifest.graphs["llm"]
    other = spec.model_copy(update={"cost": spec.cost.model_copy(update={"sizes": {"B": 1}})})
    manifest = bundle.manifest.model_copy(update={"graphs": {**bundle.manifest.graphs, "llm": other}})
    with pytest.raises(BundleError, match="graph llm: the size of 'T' was not counted"):
        example_feeds(Bundle(bundle.folder, manifest))


def test_the_command_prints_json_of_every_part(command, bundle):
    code, out, err = command(bundle.folder, "--runs", 2, "--threads", 1, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [part["name"] for part in found["parts"]] == ["spam", "llm", "decode"]
    assert (found["threads"], found["runs"], found["bundle"]) == (1, 2, "products")
    assert found["peaks"] == {"fp32_flops_per_s": 1e9, "int8_flops_per_s": 4e9, "memory_bytes_per_s": 1e8}


def test_the_table_has_every_part_the_frame_and_the_peaks(measured, capsys):
    print_report(measured)
    out = capsys.readouterr().out
    for text in ("spam", "llm", "decode, a token", "a frame", "measured peak", "GB/s", "best of 20 runs"):
        assert text in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(("load", "told"), [(0.4, False), (7.1, True)])
def test_a_machine_with_other_work_is_told(measured, capsys, load, told):
    print_report({**measured, "threads": 2, "machine": {**measured["machine"], "load_average_1min": load}})
    assert ("the machine was not idle" in capsys.readouterr().out) == told


def test_the_plot_is_a_picture(command, bundle, tmp_path):
    code, out, err = command(bundle.folder, "--runs", 1, "--plot", tmp_path / "roofline.png")
    assert (code, err) == (0, f"written: {tmp_path / 'roofline.png'}\n")
    assert "decode, a token" in out
    with Image.open(tmp_path / "roofline.png") as image:
        assert (image.format, image.size) == ("PNG", (900, 560))


def test_the_plot_is_written_before_anything_is_printed(command, bundle, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "print_report", full)
    assert command(bundle.folder, "--runs", 1, "--plot", tmp_path / "roofline.png")[0] == 1
    assert (tmp_path / "roofline.png").exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(command, bundle, tmp_path):
    message = f"error: {tmp_path}: found a folder, expected a file to write\n"
    assert command(bundle.folder, "--runs", 1, "--plot", tmp_path) == (2, "", message)


def test_the_plot_bears_figures_of_any_size(measured):
    part = measured["parts"][0]
    for intensity, speed in ((1e-3, 1e6), (1e6, 1e16), (1.0, 1e9)):
        strange = {**measured, "parts": [{**part, "flops_per_byte": intensity, "flops_per_s": speed}] * 9}
        with Image.open(io.BytesIO(draw_plot(strange))) as image:
            assert image.size == (900, 560)


def test_a_bundle_without_counts_says_so_in_one_line(command, bundle, tmp_path):
    folder = without_counts(bundle, tmp_path / "old")
    message = f"error: {folder}: graph spam carries no counts of its arithmetic; export it again\n"
    assert command(folder) == (2, "", message)


def test_the_embedded_bundle_needs_no_name(command):
    manifest = Bundle.open(default_bundle_path()).manifest
    code, out, err = command("--runs", 1, "--json")
    assert (code, err) == (0, "")
    assert {part["name"] for part in json.loads(out)["parts"]} == set(manifest.graphs)
