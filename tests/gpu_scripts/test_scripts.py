"""The scripts of a GPU machine, tried without one: the same code at tiny size, eager, on a CPU."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import measure
import numpy as np
import pytest
import torch
from common import ANSWER, build, images
from frame import Frame, compare
from measure import ALONE, BUILD_FAILED, STEPS, compiled_folder, keep_compiled, needs, open_steps
from peaks import peaks
from quantise_model import head_in, language_in
from quantised import Fp8, Int4, Int8
from record import CUT_OFF, Record
from single_pass import Language, Plan
from timing import Compiled, error
from vision import Encoders

from agvas_runtime.errors import InputError
from agvas_runtime.plan import Known
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.plant import plant
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


def test_the_trained_model_says_and_marks_what_decoding_token_by_token_does() -> None:
    checkpoint = load_checkpoint(default_checkpoint_path())
    frame = frame_of(checkpoint)
    shown = [*images(5), np.full((300, 200, 3), 128, np.uint8)]
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


def test_a_rejection_leaves_nothing_of_the_frame_before() -> None:
    checkpoint, _ = build("0.5b", "cpu", dtype=torch.float32, reduce=True)
    frame = frame_of(checkpoint)
    frame.take(next(images(1)))
    frame()
    assert frame._rows.all()
    rejection = checkpoint.templates.rejections_of(checkpoint.templates.default_class)[0]
    plant(checkpoint, rejection)
    (said,) = frame()
    assert checkpoint.prompter.decode(said.tokens) == rejection
    assert not frame._rows.any()


@pytest.mark.parametrize("known", [Known.DIRECT, Known.CUT, None])
def test_split_attention_equals_one_mask_and_blocks(known: Known | None) -> None:
    checkpoint, _ = build("7b", "cpu", dtype=torch.float32, reduce=True, planted=False)
    language, plan = Language(checkpoint.model), Plan(checkpoint, known, "cpu")
    config = checkpoint.config.model
    visual = torch.randn(2, config.visual_tokens, config.hidden_size)
    split = language(visual, plan)
    assert split.greedy.shape == (2, plan.rows)
    others = [language(visual, plan, "one", masks=plan.with_whole())]
    if known is not Known.CUT:  # eager blocks are slow
        others.append(language(visual, plan, "flex", masks=plan.with_blocks()))
    for other in others:
        assert torch.equal(other.greedy, split.greedy)
        assert error(other.states, split.states) < 1e-5
        assert torch.allclose(other.edge_logprob, split.edge_logprob, atol=1e-4)


def test_plain_prefill_is_the_prompt_alone_and_masks_lie_as_the_masked_kernel_wants_them() -> None:
    checkpoint, _ = build("7b", "cpu", dtype=torch.float32, reduce=True, planted=False)
    plain, cut = (Plan(checkpoint, known, "cpu") for known in (None, Known.CUT))
    assert (plain.tokens, plain.rows) == (plain.length, 1)
    assert plain.nodes.shape[1] == plain.masks.nodes.shape[2] == 0
    assert cut.tokens >= cut.length + cut.rows - 1
    for plan in (plain, cut):
        for mask in (plan.masks.nodes, plan.masks.last, plan.with_whole().whole):
            assert mask.shape[3] == plan.tokens
            assert mask.stride(2) % 8 == 0


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
    language_in("float32", checkpoint.model, language, weights)
    assert error(language(visual, plan).states, exact) < 1e-6


def test_the_output_head_comes_back_from_fewer_bits() -> None:
    checkpoint, _ = build("7b", "cpu", dtype=torch.float32, reduce=True, planted=False)
    language, model = Language(checkpoint.model), checkpoint.model
    weight, x = language.head.weight, torch.randn(1, 3, checkpoint.config.model.hidden_size)
    exact = language.head(x)
    head_in("fp8", model, language, weight)
    assert 0 < error(language.head(x), exact) < 0.1
    head_in("float32", model, language, weight)
    assert torch.equal(language.head(x), exact)
    assert model.llava.lm_head is language.head


def test_peaks_are_told_for_bursts_and_for_work_that_goes_on() -> None:
    found: dict[str, object] = {}
    peaks(found, "cpu", side=64, seconds=0.01)
    for name in ("bf16_tflops", "int8_tops", "copy_gb_s"):
        assert isinstance(found[name], float)
        assert isinstance(found[f"{name}_sustained"], float)
    assert "clock_after_bursts" in found


def test_the_table_shows_measured_target_and_why_not(tmp_path: Path) -> None:
    steps = {
        "frame": {"frame": {"ms": 41.5}},
        "checks": {"equal": 5, "of": 6},
        "memory": {"memory": {"peak_gb": 17.2, "reserved_gb": 17.9, "device_gb": 18.5}, "attention": "flex"},
        "fp8": {"error": "RuntimeError: no such kernel"},
        "int4_all": {"memory": {"peak_gb": 6.9, "reserved_gb": 8.7}},
        "passes": {"attention": "flex", "trie": {}, "trie_one": {"attention": "one", "compiled_graph": {"ms": 47.0}}},
    }
    (tmp_path / "7b.json").write_text(json.dumps({"gpu": {"name": "A GPU"}, "steps": steps}))
    command = [sys.executable, SCRIPTS / "table.py", tmp_path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = ("16 bits: whole", "18.50", "17.20", "8.70", "one mask", "in fp8: whole", "answers", "SAM ViT-B")
    frame, device, tensors, reserved, one, fp8, answers, other = (
        next(line for line in text.splitlines() if each in line) for each in words
    )
    assert text.startswith("A GPU\n")
    assert "41.50" in frame
    assert frame.endswith("met")
    assert device.endswith("(flex) MISSED")
    assert not tensors.endswith(("met", "MISSED"))
    assert reserved.endswith("MISSED")
    assert one.endswith("(one)")
    assert "no such kernel" in fp8
    assert "5 of 6" in answers
    assert answers.endswith("MISSED")
    assert " - " in other
    assert other.endswith("no 0.5b.json")
    rows = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert rows[0] | {"found": 41.5, "target": 45.0, "met": True, "gpu": "A GPU"} == rows[0]
    (tmp_path / "0.5b.json").write_text(json.dumps({"gpu": {"name": "another"}, "steps": {}}))
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"{tmp_path}: found 0.5b.json of another, 7b.json of A GPU, expected one GPU a folder\n"


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
        record = Record(out, 60, by={"kernels": ["flash"]})
        assert not record.run("bad", 0, bad)
        assert record.run("good", 0, good)
        assert not record.run("long", 100, good)
    assert calls == ["bad", "good"]
    steps = json.loads(out.read_text())["steps"]
    assert steps["bad"]["half"] == 2.0
    assert steps["bad"]["error"] == "ValueError: no such kernel"
    assert steps["good"]["ms"] == 1.0
    assert "put_off" in steps["long"]
    assert len(steps["good"]["made"]["scripts"]) == 16
    assert steps["good"]["made"]["kernels"] == ["flash"]


def test_a_step_that_was_cut_off_stays_open_and_does_not_keep_the_others_from_their_turn(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    Record(out, 60)
    cut = {"frame": 2, "parts": 3, "fp8": 1}
    steps = {step: {"error": CUT_OFF, "tries": tries} for step, tries in cut.items()}
    out.write_text(json.dumps({**json.loads(out.read_text()), "steps": steps | {"checks": {"equal": 6, "tries": 1}}}))
    record = Record(out, 60)
    assert open_steps(record, ["frame", "checks", "memory", "parts", "fp8"]) == ["memory", "fp8"]
    assert open_steps(record, ["frame", "checks", "parts"]) == ["frame"]
    assert not record.run("frame", 100, lambda _: None)  # put off
    assert open_steps(Record(out, 60), ["frame", "memory"]) == ["memory"]


def test_a_profile_needs_more_where_its_numbers_are_not_there_yet() -> None:
    assert needs("profile_fp8", "fp8") == STEPS["profile_fp8"] < 10
    assert needs("profile_fp8", None) == needs("profile_fp8_all", "fp8") == ALONE
    assert needs("fp8", None) == STEPS["fp8"]


@pytest.mark.parametrize(
    ("code", "again"), [(3, True), (139, True), (0, False), (4, False), (124, False), (137, False)]
)
def test_only_a_lost_device_gets_another_process_with_other_kernels(tmp_path: Path, code: int, again: bool) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\nexit {code}\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python)}
    subprocess.run([SCRIPTS / "run_all.sh", tmp_path / "out", "300"], env=environment, capture_output=True, check=False)
    *calls, _ = (tmp_path / "calls").read_text().splitlines()  # the last is the table
    assert ["--kernels flash efficient --attention split" in call for call in calls] == [False, *[True] * again] * 5


def test_a_file_of_another_preset_or_gpu_is_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    Record(out, 60, preset="7b")
    there = json.loads(out.read_text())
    Record(out, 60, preset="7b")
    assert json.loads(out.read_text()) == there
    with pytest.raises(InputError, match=r"preset: found 7b, expected 0\.5b"):
        Record(out, 60, preset="0.5b")
    out.write_text(json.dumps({**there, "gpu": {"name": "another one"}}))
    for place in (out, tmp_path / "0.5b.json"):
        with pytest.raises(InputError, match=r"out\.json: gpu: found another one.*give another folder"):
            Record(place, 60, preset="7b")
    assert not (tmp_path / "0.5b.json").exists()


def test_imports_are_within_the_budget_and_a_process_without_a_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "DISABLE_CUPTI_LAZY_REINIT", "TEARDOWN_CUPTI", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    out = tmp_path / "7b.json"
    given = ["--device", "cpu", "--eager", "--images", "0", "--seconds", "900", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["measure.py", *given])
    monkeypatch.setattr(measure, "BEGAN", time.monotonic() - 1000)
    with pytest.raises(SystemExit) as left:
        measure.run(measure.read_options())
    assert left.value.code == BUILD_FAILED
    assert json.loads(out.read_text())["steps"]["build"]["put_off"].startswith("-10")  # seconds left


def test_compiled_code_is_run_from_nowhere_that_others_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "given")
    keep_compiled(tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    keep_compiled(tmp_path / "own")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "own")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "own").chmod(0o777)
    with pytest.raises(InputError, match="only you can write to"):
        keep_compiled(tmp_path / "own")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="only you can write to"):
        keep_compiled(tmp_path / "link")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled_folder() == tmp_path / "agvas" / "compiled"


def test_a_preset_is_measured_in_one_process_and_taken_up_in_another(tmp_path: Path) -> None:
    out = tmp_path / "figures" / "7b.json"
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def measure(preset: str, *steps: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, SCRIPTS / "measure.py", "--preset", preset, "--reduce", "--device", "cpu", "--eager"]
        command += ["--repeats", "2", "--images", "2", "--out", out, "--steps", "build", *steps]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first = ("frame", "checks", "reference", "memory", "fp8_all", "passes", "int8_all", "throughput_1")
    assert measure("7b", *first).returncode == 0
    assert [path.name for path in out.parent.iterdir()] == ["7b.json"]
    steps = json.loads(out.read_text())["steps"]
    assert [name for name, step in steps.items() if "error" in step] == ["throughput_1"]  # the model is in fewer bits
    for name in ("frame", "checks", "memory", "fp8_all", "passes"):
        assert steps[name]["attention"] == "split"
        assert "nothing is compiled" in steps[name]["not_compiled"]["attention by blocks"]
    assert steps["frame"]["made"]["attention"] == "flex"  # what was asked for
    assert steps["checks"]["equal"] == 2
    for name in ("fp8_all", "int8_all"):
        assert steps[name]["rest"] == "fp8"
        assert max(steps[name]["states_error"]) < 0.1
    assert steps["passes"]["trie"]["nodes"] > 200
    assert steps["passes"]["none"]["tokens"] == steps["passes"]["none"]["prompt"]

    assert measure("7b", "profile_fp8", "throughput_4").returncode == 0
    steps = json.loads(out.read_text())["steps"]
    assert "error" not in steps["profile_fp8"]
    assert steps["profile_fp8"]["attention"] == steps["throughput_4"]["attention"] == "split"
    assert steps["throughput_4"]["frames_a_second"] > 0
    assert (steps["profile_fp8"]["language_model"], steps["profile_fp8"]["rest"]) == ("fp8", "bfloat16")

    refused = measure("0.5b", "frame")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"{out}: preset: found 7b, expected 0.5b; give another file"]
