"""Export: the bundle is the checkpoint, manifest and card say so, and a bundle that is not is never written."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from agvas_export import export
from agvas_export.cli import app
from agvas_export.export import export_bundle
from agvas_export.parity import LIMITS, GraphParity, Limits, WholeParity
from agvas_export.targets import Targets, resolve
from agvas_runtime import console
from agvas_runtime.bundle import CARD, PART, Bundle, default_bundle_path
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.hashing import sha256_file
from agvas_runtime.manifest import Manifest
from agvas_runtime.segmenter import Segmenter
from agvas_train.checkpoint import default_checkpoint_path, write_folder
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter
from tests.export.conftest import Exported

PROGRAM = Path(sys.executable).with_name("agvas-export")


def test_the_bundle_opens_and_computes_what_the_checkpoint_computes(exported: Exported) -> None:
    segmenter, reference = Segmenter.open(exported[0]), ReferenceSegmenter.open()
    for index in range(3):
        image = generate(5, index).image
        found, expected = segmenter.segment(image), reference.segment(image)
        assert found.answer == expected.answer
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-3)
        assert found.scores.p_answer == pytest.approx(expected.scores.p_answer, abs=1e-4)
        assert found.scores.min_margin == pytest.approx(expected.scores.min_margin, abs=1e-2)


def test_the_manifest_names_its_checkpoint_and_its_parity(exported: Exported) -> None:
    folder, manifest, parity = exported
    assert manifest.source.checkpoint_sha256 == sha256_file(default_checkpoint_path() / "model.safetensors")
    assert set(parity.graphs) == set(manifest.graphs)
    figures = json.loads((folder / "manifest.json").read_text())["parity"]
    assert figures["whole"]["images"] == 24
    assert figures["whole"]["other_answers"] == 0
    assert figures["graphs"]["llm"]["state_error"] < 1e-4
    assert all(graph["error"] < graph["limit"] == 1e-3 for graph in figures["graphs"].values())
    assert figures["graph_images"] == 24
    assert {spec.precision for spec in manifest.graphs.values()} == {"fp32"}
    assert Bundle.open(folder).manifest == manifest


def test_the_card_says_what_was_measured(exported: Exported) -> None:
    card = (exported[0] / CARD).read_text("utf-8")
    assert "trial" in card
    assert "| llm | fp32 |" in card
    assert exported[1].source.checkpoint_sha256 in card
    assert CARD in exported[1].files


def test_half_precision_keeps_answers_and_masks_and_records_its_peaks(half: Exported) -> None:
    folder, manifest, parity = half
    assert parity.whole.other_answers == 0
    assert parity.whole.mask_iou > 0.98
    for name, graph in parity.graphs.items():
        assert 1e-5 < graph.error < 2e-2, name  # it does round
        assert graph.peak is not None
        assert 1 < graph.peak < 30_000
    assert {spec.precision for spec in manifest.graphs.values()} == {"fp16"}
    keys = next(tensor for tensor in manifest.graphs["llm"].outputs if tensor.name == "keys")
    assert keys.dtype == "float16"
    plan = manifest.engine_plan
    assert plan is not None
    assert plan.graphs == ["semantic_encoder", "pixel_encoder", "spam", "llm", "decoder"]
    sizes = {size for name in plan.graphs for tensor in manifest.graphs[name].inputs for size in tensor.shape}
    assert {size for size in sizes if isinstance(size, str)} <= set(plan.ranges)
    Segmenter.open(folder).segment(generate(5, 0).image)  # ONNX Runtime runs it too


def test_engine_graphs_hold_nothing_that_tensorrt_cannot_read(half: Exported) -> None:
    """Single nodes that only its newest parsers know, and an attribute that none takes."""
    folder, manifest, _ = half
    for name in manifest.graphs:
        model = onnx.load(folder / manifest.graphs[name].file, load_external_data=False)
        onnx.checker.check_model(folder / manifest.graphs[name].file, full_check=True)
        assert {entry.version for entry in model.opset_import if entry.domain == ""} == {17}
        assert not {node.op_type for node in model.graph.node} & {"Attention", "RMSNormalization", "RotaryEmbedding"}
        attributes = {attribute.name for node in model.graph.node for attribute in node.attribute}
        assert "softmax_precision" not in attributes


def test_the_embedded_bundle_is_the_embedded_checkpoints() -> None:
    manifest = Bundle.open(default_bundle_path()).manifest
    assert manifest.source.checkpoint_sha256 == sha256_file(default_checkpoint_path() / "model.safetensors")


def test_no_file_holds_a_path_of_the_machine_it_was_made_on(exported: Exported) -> None:
    for folder in (exported[0], default_bundle_path()):
        for graph in (folder / "graphs").glob("*.onnx"):
            assert b".py" not in graph.read_bytes(), graph
        assert str(Path.cwd()) not in (folder / CARD).read_text("utf-8")


def test_a_failing_parity_fails_the_export_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "IMAGES", 8)
    impossible = Limits(other_answers=0, mask_iou=2, score_change=1)
    with pytest.raises(EngineError, match=r"the whole is not: mask_iou is .* the limit is 2; nothing was written"):
        export_bundle(default_checkpoint_path(), tmp_path / "bundle", name="x", limits=impossible)
    assert list(tmp_path.iterdir()) == []


def test_eight_and_four_bits_stay_within_their_limits_and_shrink_the_graphs(exported: Exported, tmp_path: Path) -> None:
    full = exported[1]

    def size(manifest: Manifest, graph: str) -> int:
        return sum(manifest.files[file].size for file in manifest.graphs[graph].data)

    targets = Targets(encoders="int8", spam="int8", llm="int4")
    manifest, parity = export_bundle(default_checkpoint_path(), tmp_path / "b", name="x", targets=targets)
    assert parity.whole.segmented_images > 0
    assert parity.graphs["llm"].state_error > 1e-3  # few bits do differ
    assert parity.graphs["decoder"].error < 1e-3  # the decoder stays exact
    assert manifest.graphs["llm"].precision == "int4"
    assert size(manifest, "llm") < 0.25 * size(full, "llm")
    assert size(manifest, "semantic_encoder") < 0.7 * size(full, "semantic_encoder")
    assert size(manifest, "pixel_encoder") < size(full, "pixel_encoder")  # its convolutions stay float32
    Segmenter.open(tmp_path / "b").segment(generate(5, 0).image)


def test_the_embedded_bundle_has_eight_bits_and_says_what_that_costs() -> None:
    manifest = Bundle.open(default_bundle_path()).manifest
    assert {spec.precision for name, spec in manifest.graphs.items() if name != "decoder"} == {"int8"}
    assert 1e-3 < manifest.parity["graphs"]["llm"]["state_error"] < 0.1
    assert manifest.parity["whole"]["other_answers"] == 0


@pytest.mark.parametrize("proved_on", [8, pytest.param(export.IMAGES, marks=pytest.mark.slow)])
def test_calibrated_eight_bits_carry_their_scales_in_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proved_on: int
) -> None:
    monkeypatch.setattr(export, "IMAGES", proved_on)
    images = default_bundle_path().parent / "demo" / "frames"
    targets = resolve(trt="int8", llm="fp8", calibration=True)
    manifest, parity = export_bundle(
        default_checkpoint_path(), tmp_path / "b", name="x", targets=targets, calibration=images
    )
    assert manifest.engine_plan is not None
    assert manifest.engine_plan.precision == "int8"
    assert parity.whole.other_answers <= 0.1
    for graph, kind in (("semantic_encoder", onnx.TensorProto.INT8), ("llm", onnx.TensorProto.FLOAT8E4M3FN)):
        model = onnx.load(tmp_path / "b" / manifest.graphs[graph].file)
        operators = [node.op_type for node in model.graph.node]
        assert operators.count("DequantizeLinear") > operators.count("QuantizeLinear") > 5
        assert kind in {tensor.data_type for tensor in model.graph.initializer}
    Segmenter.open(tmp_path / "b").segment(generate(5, 0).image)


def test_an_existing_folder_is_not_overwritten(exported: Exported) -> None:
    before = (exported[0] / "manifest.json").read_bytes()
    result = CliRunner().invoke(app, ["--out", str(exported[0])])
    assert isinstance(result.exception, InputError)
    assert "exists already; expected a new or empty folder" in str(result.exception)
    assert (exported[0] / "manifest.json").read_bytes() == before


GRAPH = GraphParity("fp16", error=1e-3, output="states", peak=100.0, peak_tensor="linear_3")
FEW = GraphParity("int8", error=1e-2, output="states")
WHOLE = WholeParity(images=2, segmented_images=1, mask_iou=1.0)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            replace(GRAPH, error=0.03),
            "llm drifts first: output states is off by 0.03 of its size",
        ),
        (replace(GRAPH, error=float("nan")), "llm drifts first: output states is off by nan"),
        (replace(GRAPH, peak=30_001.0), "llm drifts first: half tensor linear_3 reaches 3e"),
        (replace(GRAPH, peak=float("nan")), "llm drifts first: half tensor linear_3 reaches nan"),
        (replace(GRAPH, flips=2), "llm drifts first: 2 greedy tokens differ"),
        (replace(FEW, error=0.2), "off by 0.2 of its size, the limit of int8 is 0.15"),
    ],
)
def test_each_figure_of_a_graph_over_its_limit_fails(graph: GraphParity, message: str) -> None:
    replace(GRAPH).check("llm", random_weights=False)
    with pytest.raises(EngineError) as error:
        replace(graph).check("llm", random_weights=False)
    assert message in str(error.value)


def test_few_bits_are_not_judged_on_random_weights_but_half_precision_is() -> None:
    replace(FEW, error=0.5).check("llm", random_weights=True)
    for wrong in (replace(GRAPH, error=0.5), replace(FEW, error=float("nan"))):
        with pytest.raises(EngineError):
            replace(wrong).check("llm", random_weights=True)


def test_a_graph_that_names_other_tokens_is_caught() -> None:
    """All floats agree; the reference is sure of one of the two tokens that differ."""
    expected = {
        "greedy": np.array([[5, 6, 7]]),
        "margin": np.array([[3.0, 1e-4, 2.0]], np.float32),
        "states": np.ones((1, 3, 4), np.float32),
    }
    parity = GraphParity("fp32")
    parity.add({**expected, "greedy": np.array([[5, 0, 0]])}, expected)
    assert (parity.error, parity.flips) == (0.0, 1)
    with pytest.raises(EngineError, match="llm drifts first: 1 greedy tokens differ"):
        parity.check("llm", random_weights=True)


def test_without_a_mask_to_compare_the_figure_says_so() -> None:
    none = replace(WHOLE, segmented_images=0, mask_iou=None)
    none.check(LIMITS["fp32"])
    assert "no mask was compared" in none.masks


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"other_answers": 0.04}, "other_answers is 0.04, the limit is 0"),
        ({"mask_iou": 0.9}, "mask_iou is 0.9, the limit is 0.999"),
        ({"mask_iou": float("nan")}, "mask_iou is nan"),
        ({"score_change": 0.1}, "score_change is 0.1"),
    ],
)
def test_each_figure_of_the_whole_over_its_limit_fails(change: dict[str, float], named: str) -> None:
    WHOLE.check(LIMITS["fp32"])
    with pytest.raises(EngineError, match=named):
        replace(WHOLE, **change).check(LIMITS["fp32"])


def test_a_checkpoint_whose_answers_lack_an_anchor_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(default_checkpoint_path(), folder)
    templates = json.loads((folder / "templates.json").read_text("utf-8"))
    (folder / "templates.json").write_text(json.dumps({**templates, "direct_answers": ["It is [SEG]."]}))
    with pytest.raises(
        InputError, match=r"templates\.json: direct_answers\.0: found 'It is \[SEG\]\.', expected \[NOR\]"
    ):
        export_bundle(folder, tmp_path / "bundle", name="trial")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("place", ["", "final"])
def test_adapters_are_not_exported(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "adapter.safetensors").write_bytes(b"")
    result = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "bundle")])
    assert isinstance(result.exception, InputError)
    assert "merge them first" in str(result.exception)


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says on stderr when it ends with exit code 2."""
    with pytest.raises(SystemExit) as left:
        console.run(app, arguments)
    said = capfd.readouterr().err
    assert left.value.code == 2, said
    return said


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)


def test_without_a_gpu_trt_fails_at_once_and_names_the_way_out(tmp_path: Path) -> None:
    from agvas_runtime.engines.device import probe

    try:
        probe()
        pytest.skip("there is a GPU with TensorRT here")
    except EngineError:
        pass
    result = run("--trt", "fp16", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: --trt fp16: ")
    assert "`--trt fp16 --defer` writes the typed graphs and the build plan" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_usage_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (("--verify", "a.txt"), "a.txt"),
        (("--llm", "int4", "--calibration", "empty"), "empty: no data set here"),
        (("--out", "a.txt/b"), "is a file, expected a folder"),
        (("--llm", "int5"), "did you mean int8?"),
        (("--trt", "int8", "--defer"), "needs --calibration"),
        (("nowhere",), "no such checkpoint folder"),
        (("--out", "b\udcff"), r"is '\udcff', expected readable text"),
        (("--name", "b\udcff"), r"name: character 2 is '\udcff', expected readable text"),
        (("--llm", "fp8", "--calibration", "nowhere"), "nowhere"),
    ):
        said = refusal(capfd, *arguments)
        assert message in said
        assert said.count("\n") == 1, said  # before any work began
    program = run("--llm", "int5", cwd=tmp_path)
    assert (program.returncode, program.stderr) == (2, refusal(capfd, "--llm", "int5"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "empty"}


def test_the_targets_are_shown(tmp_path: Path) -> None:
    result = run("--targets", cwd=tmp_path)
    assert result.returncode == 0
    assert "--llm int4" in result.stdout
    assert "TensorRT 10.6 and newer" in result.stdout


def test_the_targets_are_not_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert refusal(capfd, "--targets", "--json") == "error: can't use both --targets and --json; choose one\n"


SHORT_PROOF = "import agvas_export.export as export; export.IMAGES = 1; from agvas_export.cli import main; main()"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What a folder held when an export into it was killed early, and when the next one was killed at its end."""
    root, rng, kept = tmp_path_factory.mktemp("killed"), random.Random(4), []
    bundle = root / "out" / "bundle"
    for stop_at in ("graph pixel_encoder", "manifest"):
        command = [sys.executable, "-c", SHORT_PROOF, "--out", bundle]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if stop_at in line:
                break
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        assert code == -signal.SIGKILL or (code == 0 and stop_at == "manifest")  # it may be done before the signal
        process.stderr.close()
        kept.append(shutil.copytree(bundle.parent, root / stop_at))
        shutil.rmtree(bundle, ignore_errors=True)  # only there if it was done before the signal
    return kept


def test_an_export_killed_at_any_point_leaves_nothing_that_loads(killed: list[Path]) -> None:
    """Every start removes what the one before left."""
    assert not (killed[0] / "bundle").exists()
    assert any(killed[0].iterdir())
    for folder in killed:
        if (folder / "bundle").exists():  # it was done before the signal: then it is whole
            Bundle.open(folder / "bundle")
        left = [path for path in folder.iterdir() if path.name != "bundle"]
        assert len(left) <= 1
        for path in left:
            assert path.name.endswith(PART)
            with pytest.raises(BundleError):
                Bundle.open(path)


def test_every_process_writes_the_same_graphs(killed: list[Path], exported: Exported) -> None:
    """To the byte: names, order and weights."""
    (other,) = killed[-1].iterdir()
    graphs = sorted((exported[0] / "graphs").iterdir())
    assert [path.name for path in graphs] == sorted(path.name for path in (other / "graphs").iterdir())
    for path in graphs:
        assert sha256_file(path) == sha256_file(other / "graphs" / path.name), path.name


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead, living, other = (tmp_path / f".{name}{PART}" for name in ("b-11111111", "b-22222222", "c-11111111"))
    for folder in (dead, living, other):
        folder.mkdir()
    handle = os.open(living, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        write_folder(tmp_path / "b", lambda folder: (folder / "x").touch())
    finally:
        os.close(handle)
    assert {path.name for path in tmp_path.iterdir()} == {"b", living.name, other.name}


def test_a_folder_named_as_unfinished_is_refused_even_if_it_is_whole(exported: Exported, tmp_path: Path) -> None:
    shutil.copytree(exported[0], tmp_path / f".bundle-x{PART}")
    with pytest.raises(BundleError, match="an export that never finished"):
        Bundle.open(tmp_path / f".bundle-x{PART}")
