"""Training runs: data by step, accumulation, resuming, options."""

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import MODEL, load_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.batch import collate, make_example
from agvas_train.data.conversation import Task, draw_turn
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth_turns import SynthTurns, as_sample
from agvas_train.loop import false_alarm_weight, learning_rate
from agvas_train.lora import read_adapter_config
from agvas_train.parallel import Parallel
from agvas_train.runs import run_training

from .conftest import SHORT, losses, quiet


def test_a_run_leaves_metrics_scalars_checkpoints_and_a_final_checkpoint(finished: Path) -> None:
    assert len(losses(finished)) == 4
    assert list((finished / "tensorboard").iterdir())
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == ["step-000002", "step-000004"]
    final = load_checkpoint(finished / "final")
    assert final.provenance["step"] == 4
    assert final.provenance["train"]["steps"] == 4
    assert final.provenance["commit"] is None or len(final.provenance["commit"].rstrip("+")) == 12


def test_a_resumed_run_has_the_same_losses_and_weights(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    run_training(run, SHORT, resume=True, report=quiet)
    assert losses(run) == losses(finished)
    assert load_checkpoint(run / "final").provenance == load_checkpoint(finished / "final").provenance
    assert (run / "final" / MODEL).read_bytes() == (finished / "final" / MODEL).read_bytes()


def test_a_resumed_lora_run_has_the_same_losses(finished: Path, adapted: Path, tmp_path: Path) -> None:
    """Dropout too: it follows from seed and step."""
    run = tmp_path / "run"
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    config = TrainConfig.model_validate_json((run / "train.json").read_text(encoding="utf-8"))
    run_training(run, config, resume=True, report=quiet)
    assert losses(run) == losses(adapted)


def test_a_resumed_lora_run_finds_its_base_where_it_is_now(finished: Path, adapted: Path, tmp_path: Path) -> None:
    moved, run = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(finished / "final", moved)
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    config = TrainConfig.model_validate_json((run / "train.json").read_text(encoding="utf-8"))
    run_training(run, config.model_copy(update={"base": str(moved)}), resume=True, report=quiet)
    assert read_adapter_config(run / "final").base == str(moved.resolve())


def test_a_resumed_run_on_a_base_has_the_same_losses(finished: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", SHORT.model_copy(update={"seed": 5, "base": str(finished / "final")})
    run_training(run, config, resume=False, report=quiet)
    before = losses(run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    run_training(run, config, resume=True, report=quiet)
    assert losses(run) == before
    assert load_checkpoint(run / "final").provenance["base"]["step"] == 4


def test_a_folder_with_a_run_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(InputError, match="exists already; use --resume"):
        run_training(finished, SHORT, resume=False, report=quiet)


def test_resuming_with_other_options_names_them(finished: Path) -> None:
    other = SHORT.model_copy(update={"learning_rate": 0.5, "lora": 4})
    with pytest.raises(InputError, match=r"lora, learning_rate differ"):
        run_training(finished, other, resume=True, report=quiet)


def test_a_finished_run_is_not_resumed(finished: Path) -> None:
    with pytest.raises(InputError, match="all 4 steps are done already"):
        run_training(finished, SHORT, resume=True, report=quiet)


def test_resuming_on_another_base_is_refused(finished: Path, adapted: Path, small_folder: Path, tmp_path: Path) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    shutil.copytree(small_folder, base)
    config = TrainConfig.model_validate_json((run / "train.json").read_text(encoding="utf-8"))
    moved = config.model_copy(update={"base": str(base)})
    (run / "train.json").write_text(moved.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="not those that the run began with"):
        run_training(run, moved, resume=True, report=quiet)


def test_a_gradient_that_is_not_finite_ends_the_run_and_is_in_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, calls = Parallel.clip, []

    def spoilt(self: Parallel, module: torch.nn.Module, norm: float) -> float:
        calls.append(module)
        if len(calls) == 2:
            next(p.grad for p in module.parameters() if p.grad is not None)[..., 0] = torch.nan
        return clip(self, module, norm)

    monkeypatch.setattr(Parallel, "clip", spoilt)
    config = SHORT.model_copy(update={"save_every": 1})
    with pytest.raises(InputError, match=r"step 1: the norm of the gradient is nan; lower the learning rate"):
        run_training(tmp_path / "run", config, resume=False, report=quiet)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]
    assert all(p.isfinite().all() for p in calls[0].parameters())


def test_a_start_that_fails_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint folder"):
        run_training(tmp_path / "run", SHORT.model_copy(update={"base": "nowhere"}), resume=False, report=quiet)
    assert not (tmp_path / "run").exists()


def test_batches_depend_on_seed_and_step_only(small_folder: Path) -> None:
    checkpoint = load_checkpoint(small_folder)
    stream = TurnStream(
        SynthTurns(checkpoint.templates, dict.fromkeys(Task, 1.0), SynthConfig(), seed=3),
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        batch_size=2,
        micro_batch=2,
        start=0,
        stop=3,
    )
    first, alone = list(stream)[2], stream.batch(2)
    assert torch.equal(first.pixel, alone.pixel)
    assert torch.equal(first.texts, alone.texts)


def test_anchor_positions_follow_the_configured_state(small_folder: Path) -> None:
    checkpoint = load_checkpoint(small_folder)
    sample = next(s for s in (generate(0, i) for i in range(50)) if s.caption.exists)
    import random

    turn = draw_turn(Task.DIRECT, as_sample(sample, 0, 0), checkpoint.templates, random.Random(0))
    assert turn is not None
    example = make_example(sample.image, turn, checkpoint.prompter, checkpoint.config.model)
    batch = collate([example], checkpoint.config.model)
    anchors = torch.tensor(checkpoint.prompter.anchor_ids)
    assert torch.equal(batch.texts[0, batch.anchor_positions[0, 1, 2][0]], anchors)
    predicting = checkpoint.config.model.model_copy(update={"anchor_state": "predicting"})
    shifted = collate([example], predicting).anchor_positions[0, 1, 2]
    assert torch.equal(shifted, batch.anchor_positions[0, 1, 2] - 1)
    assert example.target.max() > 0


def test_the_rate_warms_up_and_decays_linearly() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, learning_rate=1.0)
    assert learning_rate(config, 0) == pytest.approx(0.01)
    assert learning_rate(config, 99) == pytest.approx(1.0)
    assert learning_rate(config, 550) == pytest.approx(0.5)
    assert learning_rate(config, 999) == pytest.approx(1 / 900)
    weights = [false_alarm_weight(config, step) for step in (0, 500, 750, 1000)]
    assert weights == [0, 0, 0, 0]  # the paper's losses, unless asked otherwise
    config = config.model_copy(update={"false_alarms": 3.0})
    assert [false_alarm_weight(config, step) for step in (0, 500, 750, 1000)] == pytest.approx([0, 0, 1.5, 3])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"weight_decay": -1}, "weight_decay"),
        ({"vocabulary_size": 200}, "vocabulary_size"),
        ({"mixture": {"direct": float("nan")}}, "finite number"),
        ({"mixture": {"direct": float("inf")}}, "finite number"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused_before_it_begins(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainConfig.model_validate({"preset": "tiny", **options})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--preset", "huge", "--out", "x"], "expected one of tiny, 0.5b, 7b"),
        (["--preset", "7b", "--out", "x"], "starts from released backbones"),
        (["--preset", "tiny"], "--out is missing"),
        (["--lora", "16", "--out", "x"], "--lora needs a base checkpoint"),
        (["--from", "nowhere", "--lora", "16", "--out", "x"], "no such checkpoint folder"),
        (["--steps", "0", "--out", "x"], "steps: Input should be greater than 0"),
        (["--resume", "--out", "nowhere"], "cannot be read"),
        (["--out", "x"], "--preset or --from is missing"),
        (
            ["--preset", "tiny", "--batch-size", "6", "--micro-batch", "4", "--out", "x"],
            "not a multiple of micro_batch 4",
        ),
        (
            ["--config", "nope", "--out", "x"],
            "no shipped recipe (there are 0.5b, 7b, tiny-further, tiny-gpu, tiny-mixture, tiny-more, tiny-words, tiny)",
        ),
        (["--preset", "tiny", "--seed", "-1", "--out", "x"], "seed: Input should be greater than or equal to 0"),
        (["--preset", "tiny", "--deepspeed", "nowhere.json", "--out", "x"], "cannot be read as a DeepSpeed"),
    ],
)
def test_wrong_options_are_one_line(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agvas_train.cli import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert reason in str(result.exception)
