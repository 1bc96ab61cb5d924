"""Export: the bundle is the checkpoint, the manifest says so, and a bundle that is not is never written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agvas_export.export import export_bundle
from agvas_export.graphs import graphs_of
from agvas_export.parity import GRAPH_ERROR, LIMITS, Limits, Parity
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.hashing import sha256_file
from agvas_runtime.manifest import Manifest
from agvas_runtime.segmenter import Segmenter
from agvas_train.checkpoint import default_checkpoint_path, load_checkpoint
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    manifest, _ = export_bundle(default_checkpoint_path(), folder, name="trial", precision={})
    return folder, manifest


def test_the_bundle_opens_and_computes_what_the_checkpoint_computes(exported: tuple[Path, Manifest]) -> None:
    segmenter, reference = Segmenter.open(exported[0]), ReferenceSegmenter.open()
    for index in range(3):
        image = generate(5, index).image
        found, expected = segmenter.segment(image), reference.segment(image)
        assert found.answer == expected.answer
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-3)
        assert found.scores.p_answer == pytest.approx(expected.scores.p_answer, abs=1e-4)
        assert found.scores.min_margin == pytest.approx(expected.scores.min_margin, abs=1e-2)


def test_the_manifest_names_its_checkpoint_and_its_parity(exported: tuple[Path, Manifest]) -> None:
    folder, manifest = exported
    assert manifest.source.checkpoint_sha256 == sha256_file(default_checkpoint_path() / "model.safetensors")
    assert manifest.parity["other_answers"] == 0
    assert manifest.parity["images"] == 24
    assert set(manifest.parity["graph_error"]) == set(manifest.graphs)  # type: ignore[arg-type]
    assert {spec.precision for spec in manifest.graphs.values()} == {"fp32"}
    assert Bundle.open(folder).manifest == manifest


def test_the_embedded_bundle_is_the_embedded_checkpoints() -> None:
    manifest = Bundle.open(Path(Segmenter.open().bundle.folder)).manifest
    assert manifest.source.checkpoint_sha256 == sha256_file(default_checkpoint_path() / "model.safetensors")


def test_no_graph_holds_a_path_of_the_machine_it_was_made_on(exported: tuple[Path, Manifest]) -> None:
    for folder in (exported[0], default_bundle_path()):
        for graph in (folder / "graphs").glob("*.onnx"):
            assert b".py" not in graph.read_bytes(), graph


def test_a_failing_parity_fails_the_export_and_writes_nothing(tmp_path: Path) -> None:
    impossible = Limits(map_difference=-1, other_answers=0, mask_disagreement=0)
    with pytest.raises(EngineError, match=r"parity: map_difference is .* the limit is -1; nothing was written"):
        export_bundle(default_checkpoint_path(), tmp_path / "bundle", name="x", precision={}, limits=impossible)
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_stay_within_their_limits_and_shrink_the_graphs(
    exported: tuple[Path, Manifest], tmp_path: Path
) -> None:
    precision = {"llm": "int8", "encoders": "int8"}
    manifest, parity = export_bundle(default_checkpoint_path(), tmp_path / "b", name="x", precision=precision)
    assert parity.segmented_images > 0
    assert parity.graph_error["llm"] > 1e-3 > parity.graph_error["decoder"]  # 8 bits do differ; the decoder stays exact
    assert manifest.graphs["llm"].precision == "int8"
    assert manifest.graphs["decoder"].precision == "fp32"
    full = exported[1]
    for graph in ("llm", "pixel_encoder"):
        file = manifest.graphs[graph].file
        assert manifest.files[file].size < 0.7 * full.files[file].size


def test_an_existing_folder_is_not_overwritten(exported: tuple[Path, Manifest]) -> None:
    before = json.loads((exported[0] / "manifest.json").read_text(encoding="utf-8"))
    with pytest.raises(InputError, match="exists already; expected a new or empty folder"):
        export_bundle(default_checkpoint_path(), exported[0], name="x", precision={})
    assert json.loads((exported[0] / "manifest.json").read_text(encoding="utf-8")) == before


def test_the_llm_graph_takes_any_length(exported: tuple[Path, Manifest]) -> None:
    """Another instruction has another prompt and another trie."""
    checkpoint = load_checkpoint(default_checkpoint_path())
    llm = next(graph for graph in graphs_of(checkpoint) if graph.name == "llm")
    rows, edges = 7, 5
    shorter = {
        "inputs_embeds": llm.inputs["inputs_embeds"][:, :50],
        "position_ids": llm.inputs["position_ids"][:, :50],
        "attention_bias": llm.inputs["attention_bias"][:, :, :50, :50],
        "rows": llm.inputs["rows"][:rows] * 0 + 9,
        "edge_rows": llm.inputs["edge_rows"][:edges] % rows,
        "edge_tokens": llm.inputs["edge_tokens"][:edges],
    }
    with torch.no_grad():
        expected = dict(zip(llm.outputs, llm.module(*shorter.values()), strict=True))
    found = OrtEngine(exported[0] / "graphs" / "llm.onnx").run({k: v.numpy() for k, v in shorter.items()})
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"graph_error": {"llm": 0.01}}, "graph_error of llm is 0.01, the limit is 0.001"),
        ({"map_difference": 0.1}, "map_difference is 0.1"),
        ({"other_answers": 0.04}, "other_answers is 0.04, the limit is 0"),
        ({"mask_disagreement": float("nan")}, "mask_disagreement is nan"),
    ],
)
def test_each_figure_over_its_limit_fails(change: dict[str, object], named: str) -> None:
    good: dict[str, object] = {
        "images": 2,
        "segmented_images": 1,
        "graph_error": {"llm": 1e-6},
        "map_difference": 0.0,
        "largest_map_difference": 0.0,
        "other_answers": 0.0,
        "mask_disagreement": 0.0,
        "smallest_margin": 1.0,
    }
    limits = {"llm": GRAPH_ERROR["fp32"]}
    Parity(**good).check(LIMITS["fp32"], limits)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=named):
        Parity(**{**good, **change}).check(LIMITS["fp32"], limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["", "final"])
def test_adapters_are_not_exported(tmp_path: Path, place: str) -> None:
    from typer.testing import CliRunner

    from agvas_export.cli import app

    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "adapter.safetensors").write_bytes(b"")
    result = CliRunner().invoke(app, [str(tmp_path), "--out", str(tmp_path / "bundle")])
    assert isinstance(result.exception, InputError)
    assert "merge them first" in str(result.exception)
