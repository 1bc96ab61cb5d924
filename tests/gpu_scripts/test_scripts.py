"""The scripts of a GPU machine, tried without one: the same code at tiny size, eager, on a CPU."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from common import ANSWER, build, images
from frame import Frame, compare
from quantise_model import language_again, language_in
from quantised import Fp8, Int4, Int8
from record import Record
from single_pass import Language, Plan
from timing import Compiled, error
from vision import Encoders

from agvas_runtime.plan import Known
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.reference import ReferenceSegmenter

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "gpu"


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Nothing is compiled, and nothing needs a gradient."""
    Compiled.on = False
    with torch.inference_mode():
        yield
    Compiled.on = True


def frame_of(checkpoint: Checkpoint) -> Frame:
    encoders, language = Encoders(checkpoint.model, checkpoint.config.model), Language(checkpoint.model)
    return Frame(checkpoint, encoders, language, Plan(checkpoint, Known.DIRECT, "cpu"))


def test_the_trained_model_says_and_marks_what_decoding_token_by_token_does(photo: Path) -> None:
    checkpoint = load_checkpoint(default_checkpoint_path())
    frame = frame_of(checkpoint)
    shown = [*images(3), np.full((300, 200, 3), 128, np.uint8)]
    found = compare(frame, ReferenceSegmenter(checkpoint, template_scores=False), shown)
    assert all(each["equal"] for each in found)
    marked = [each for each in found if "map_error" in each]
    assert marked
    for each in marked:
        assert each["states_error"] < 1e-4
        assert each["map_max_difference"] < 1e-3


@pytest.mark.parametrize("preset", ["7b", "0.5b"])
def test_the_fast_forms_of_a_large_preset_compute_what_the_library_does(preset: str) -> None:
    checkpoint, _ = build(preset, "cpu", dtype=torch.float32, reduce=True)
    frame = frame_of(checkpoint)
    shown = list(images(2))
    frame.take(shown[0])
    model = checkpoint.model
    assert error(frame.encoders.pixel(frame.pixels), model.pixel_features(frame.pixels)) < 1e-5
    assert error(frame.encoders.semantic(frame.semantic), model.semantic_features(frame.semantic)) < 1e-5
    for each in compare(frame, ReferenceSegmenter(checkpoint, template_scores=False), shown):
        assert each["answer"] == ANSWER
        assert each["equal"]
        assert each["states_error"] < 1e-5
        assert each["map_max_difference"] < 1e-5


@pytest.mark.parametrize("known", [Known.DIRECT, Known.CUT, None])
def test_split_attention_equals_one_mask_and_blocks(known: Known | None) -> None:
    checkpoint, _ = build("7b", "cpu", dtype=torch.float32, reduce=True, planted=False)
    language, plan = Language(checkpoint.model), Plan(checkpoint, known, "cpu")
    config = checkpoint.config.model
    visual = torch.randn(2, config.visual_tokens, config.hidden_size)
    split = language(visual, plan)
    assert split.greedy.shape == (2, plan.rows)
    others = [language(visual, plan, "one", masks=plan.with_whole())]
    if known is Known.DIRECT:  # eager blocks are slow
        others.append(language(visual, plan, "flex", masks=plan.with_blocks()))
    for other in others:
        assert torch.equal(other.greedy, split.greedy)
        assert error(other.states, split.states) < 1e-5
        assert torch.allclose(other.edge_logprob, split.edge_logprob, atol=1e-4)


@pytest.mark.parametrize(("kind", "most"), [(Fp8, 0.06), (Int8, 0.02), (Int4, 0.2)])
def test_a_linear_layer_in_fewer_bits_is_near_its_own(kind: type[torch.nn.Module], most: float) -> None:
    linear = torch.nn.Linear(256, 48)
    x = torch.randn(2, 21, 256)
    found = kind(linear)(x)
    assert found.shape == (2, 21, 48)
    assert 0 < error(found, linear(x)) < most


def test_the_language_model_comes_back_from_fewer_bits() -> None:
    checkpoint, weights = build("7b", "cpu", dtype=torch.float32, reduce=True, planted=False)
    language, plan = Language(checkpoint.model), Plan(checkpoint, Known.CUT, "cpu")
    visual = torch.randn(1, checkpoint.config.model.visual_tokens, checkpoint.config.model.hidden_size)
    exact = language(visual, plan).states
    for kind, most in (("fp8", 0.1), ("int8", 0.05), ("int4", 0.4)):
        language_in(kind, checkpoint.model, language, weights)
        assert 0 < error(language(visual, plan).states, exact) < most
    language_again(checkpoint.model, language, weights, checkpoint.model.llava.lm_head.weight)
    assert error(language(visual, plan).states, exact) < 1e-6


def test_the_table_shows_measured_target_and_why_not(tmp_path: Path) -> None:
    steps = {
        "frame": {"frame": {"ms": 41.5}},
        "memory": {"memory": {"peak_gb": 18.5}},
        "fp8": {"error": "RuntimeError: no such kernel"},
    }
    (tmp_path / "7b.json").write_text(json.dumps({"steps": steps}))
    command = [sys.executable, SCRIPTS / "table.py", tmp_path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = ("16 bits: whole", "18.5", "in fp8: whole")
    frame, memory, fp8 = (next(line for line in text.splitlines() if each in line) for each in words)
    assert "41.50" in frame
    assert frame.endswith("met")
    assert memory.endswith("MISSED")
    assert "no such kernel" in fp8
    rows = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert rows[0] | {"found": 41.5, "target": 45.0, "met": True} == rows[0]


def test_a_step_that_fails_leaves_its_reason_and_the_others_alone(tmp_path: Path) -> None:
    out, calls = tmp_path / "out.json", []

    def good(found: dict[str, object]) -> None:
        calls.append("good")
        found["ms"] = 1.0

    def bad(found: dict[str, object]) -> None:
        calls.append("bad")
        found["half"] = 2.0
        raise ValueError("no such kernel")

    for _ in range(2):  # the second time as a new process would
        record = Record(out, 60)
        assert not record.run("bad", 0, bad)
        assert record.run("good", 0, good)
        assert not record.run("long", 100, good)
    assert calls == ["bad", "good"]
    steps = json.loads(out.read_text())["steps"]
    assert steps["bad"]["half"] == 2.0
    assert steps["bad"]["error"] == "ValueError: no such kernel"
    assert steps["good"]["ms"] == 1.0
    assert "put_off" in steps["long"]


def test_a_preset_is_measured_in_one_process(tmp_path: Path) -> None:
    out = tmp_path / "7b.json"
    command = [sys.executable, SCRIPTS / "measure.py", "--preset", "7b", "--reduce", "--device", "cpu", "--eager"]
    command += ["--repeats", "2", "--images", "2", "--out", out]
    command += ["--steps", "build", "frame", "checks", "fp8_all", "passes"]
    subprocess.run(command, capture_output=True, check=True)
    steps = json.loads(out.read_text())["steps"]
    assert not [name for name, step in steps.items() if "error" in step]
    assert steps["checks"]["equal"] == 2
    assert max(steps["fp8_all"]["states_error"]) < 0.1
    assert steps["passes"]["trie"]["nodes"] > 200
