"""Graphs for TensorRT and the script that tries them, without TensorRT: ONNX Runtime reads what the first one wrote."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorrt_graphs

SCRIPT = Path(tensorrt_graphs.__file__).with_name("tensorrt.sh")
FIGURES = {
    "replay_ms": 1.25,
    "run_ms": 1.5,
    "build_seconds": 12.0,
    "differences": {"map": {"largest": 0.01, "relative": 0.002}},
    "finite": {"map": True},
    "plan_bytes": 3_000_000,
    "context_bytes": 500_000,
}


def write(folder: Path, *more: object) -> Path:
    words = [folder, "--preset", "7b", "--only", "7b-spam", "--reduce", *more]
    tensorrt_graphs.main([str(word) for word in words])
    assert [path.name for path in folder.iterdir()] == ["7b-spam"]
    return folder / "7b-spam"


@pytest.mark.parametrize("more", [(), ("--fixed",)])
def test_a_graph_filled_from_its_skeleton_gives_what_lies_beside_it(tmp_path: Path, more: tuple[str, ...]) -> None:
    skeleton = write(tmp_path / "skeletons", "--skeleton-only", *more)
    assert [path.name for path in skeleton.iterdir()] == ["spam.onnx"]
    assert (skeleton / "spam.onnx").stat().st_size < 20_000
    folder = write(tmp_path / "graphs", "--skeletons", tmp_path / "skeletons", *more)
    model = onnx.load(folder / "spam.onnx", load_external_data=False)
    first = {value.name: value.type.tensor_type.shape.dim[0] for value in model.graph.input}
    assert {dim.dim_param or dim.dim_value for dim in first.values()} == ({1} if more else {"B"})
    assert model.opset_import[0].version == 17
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
    session = onnxruntime.InferenceSession(str(folder / "spam.onnx"))
    inputs, outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
    assert {array.shape[0] for array in inputs.values()} == {1}
    (visual,) = session.run(list(outputs), inputs)
    assert np.abs(visual - outputs["visual"]).max() < 5e-3 * np.abs(outputs["visual"]).max()


@pytest.mark.parametrize(("made", "asked"), [((), ("--fixed",)), (("--fixed",), ())])
def test_a_skeleton_of_the_other_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: tuple[str, ...], asked: tuple[str, ...]
) -> None:
    write(tmp_path / "skeletons", "--skeleton-only", *made)
    with pytest.raises(SystemExit):
        write(tmp_path / "graphs", "--skeletons", tmp_path / "skeletons", *asked)
    kinds = ["a dimension that varies", "constant shapes"][:: -1 if made else 1]
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"spam.onnx: found a graph with {kinds[0]}, expected {kinds[1]} (see --fixed)")


def test_a_skeleton_that_is_missing_is_named_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        write(tmp_path / "graphs", "--skeletons", tmp_path / "none")
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path}/none/7b-spam/spam.onnx: no such file, expected a graph that --skeleton-only wrote" in last
    assert not (tmp_path / "graphs").exists()


def test_the_table_has_what_ran_and_why_the_rest_did_not(tmp_path: Path) -> None:
    graphs, out, runner = tmp_path / "graphs", tmp_path / "out", tmp_path / "run.sh"
    for name in ("7b-decoder", "7b-spam", "0.5b-spam"):
        (graphs / name).mkdir(parents=True)
    runner.write_text(
        "#!/bin/sh\n"
        f"case \"$2\" in *7b-decoder/decoder.onnx) echo '{json.dumps(FIGURES)}';; *0.5b*) sleep 20;;\n"
        "*) echo error: no kernel for it >&2; exit 1;; esac\n"
    )
    runner.chmod(0o755)
    environment = {**os.environ, "TRT_RUN": str(runner), "LIMIT": "4"}
    said = subprocess.run([SCRIPT, graphs, out], env=environment, capture_output=True, text=True, check=True).stdout
    rows = {line.split(" | ")[0]: line for line in said.splitlines() if " | " in line}
    assert rows["7b-decoder"] == "7b-decoder | 1.250 | 1.500 | 12.0 | 2.00e-03 | yes | 3.0 | 0.5"
    assert rows["7b-spam"].endswith("error: no kernel for it")
    assert "exit code 124" in rows["0.5b-spam"]
    assert rows["7b-pixel_encoder"] == "7b-pixel_encoder | not run"
    assert sorted(path.name for path in out.iterdir()) == ["0.5b-spam.txt", "7b-decoder.json", "7b-spam.txt"]
