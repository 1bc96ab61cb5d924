"""Training runs: data by step, resuming, adapters, merging, checkpoints that do not load half."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import MODEL, load_checkpoint, save_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.batch import collate, make_example
from agvas_train.data.conversation import Task, draw_turn
from agvas_train.data.stream import SynthStream
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.loop import learning_rate
from agvas_train.lora import load_adapted, merge
from agvas_train.reference import ReferenceSegmenter
from agvas_train.runs import run_training

SHORT = TrainConfig(
    steps=4, batch_size=2, save_every=2, warmup_steps=2, vocabulary_size=700, corpus_samples=0, workers=0
)


def _quiet(step: int, figures: dict[str, float]) -> None:
    pass


def _losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    run_training(run, SHORT, resume=False, report=_quiet)
    return run


@pytest.fixture(scope="module")
def adapted(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "lora"
    options = {"learning_rate": 1e-2, "seed": 7, "base": str(finished / "final"), "lora": 16}
    run_training(run, SHORT.model_copy(update=options), resume=False, report=_quiet)
    return run


def test_a_run_leaves_metrics_scalars_checkpoints_and_a_final_checkpoint(finished: Path) -> None:
    assert len(_losses(finished)) == 4
    assert list((finished / "tensorboard").iterdir())
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == ["step-000002", "step-000004"]
    final = load_checkpoint(finished / "final")
    assert final.provenance["step"] == 4
    assert final.provenance["train"]["steps"] == 4


def test_a_resumed_run_has_the_same_losses_and_weights(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    run_training(run, SHORT, resume=True, report=_quiet)
    assert _losses(run) == _losses(finished)
    assert load_checkpoint(run / "final").provenance == load_checkpoint(finished / "final").provenance
    assert (run / "final" / MODEL).read_bytes() == (finished / "final" / MODEL).read_bytes()


def test_a_resumed_lora_run_has_the_same_losses(finished: Path, adapted: Path, tmp_path: Path) -> None:
    """Dropout too: the random state is part of a checkpoint."""
    run = tmp_path / "run"
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    config = TrainConfig.model_validate_json((run / "train.json").read_text(encoding="utf-8"))
    run_training(run, config, resume=True, report=_quiet)
    assert _losses(run) == _losses(adapted)


def test_a_resumed_run_on_a_base_has_the_same_losses(finished: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", SHORT.model_copy(update={"seed": 5, "base": str(finished / "final")})
    run_training(run, config, resume=False, report=_quiet)
    before = _losses(run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / "step-000004")
    run_training(run, config, resume=True, report=_quiet)
    assert _losses(run) == before
    assert load_checkpoint(run / "final").provenance["base"]["step"] == 4


def test_a_folder_with_a_run_is_not_overwritten(finished: Path) -> None:
    with pytest.raises(InputError, match="exists already; use --resume"):
        run_training(finished, SHORT, resume=False, report=_quiet)


def test_resuming_with_other_options_names_them(finished: Path) -> None:
    other = SHORT.model_copy(update={"learning_rate": 0.5, "lora": 4})
    with pytest.raises(InputError, match=r"lora, learning_rate differ"):
        run_training(finished, other, resume=True, report=_quiet)


def test_a_finished_run_is_not_resumed(finished: Path) -> None:
    with pytest.raises(InputError, match="all 4 steps are done already"):
        run_training(finished, SHORT, resume=True, report=_quiet)


def test_resuming_on_another_base_is_refused(finished: Path, adapted: Path, small_folder: Path, tmp_path: Path) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    shutil.copytree(small_folder, base)
    config = TrainConfig.model_validate_json((run / "train.json").read_text(encoding="utf-8"))
    moved = config.model_copy(update={"base": str(base)})
    (run / "train.json").write_text(moved.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="not those that the run began with"):
        run_training(run, moved, resume=True, report=_quiet)


def test_a_start_that_fails_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint folder"):
        run_training(tmp_path / "run", SHORT.model_copy(update={"base": "nowhere"}), resume=False, report=_quiet)
    assert not (tmp_path / "run").exists()


def test_only_the_papers_parts_are_trained_with_lora(finished: Path, adapted: Path) -> None:
    checkpoint, _ = load_adapted(adapted / "final")
    trained = {name for name, p in checkpoint.model.named_parameters() if p.requires_grad}
    layers = checkpoint.config.model.language["num_hidden_layers"]
    assert sum("lora_A" in name for name in trained) == 4 * layers
    assert all("language_model.layers" in name for name in trained if "lora_" in name)
    rest = {name.split(".")[0] for name in trained if "lora_" not in name}
    assert rest == {"spam", "token_refiner", "agmd", "llava"}
    assert {name for name in trained if name.startswith("llava") and "lora_" not in name} == {
        "llava.model.language_model.embed_tokens.weight"  # the output head is tied to it
    }


@torch.no_grad()
def test_merging_changes_no_output(finished: Path, adapted: Path) -> None:
    unmerged, _ = load_adapted(adapted / "final")
    merged, base = merge(adapted / "final"), load_checkpoint(finished / "final")
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    ids = torch.randint(0, 700, (2, 12), generator=torch.Generator().manual_seed(0))
    logits = [c.model.eval().logits(c.model.hidden_states(c.model.embed(ids))) for c in (unmerged, merged, base)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4)
    assert (logits[2] - logits[0]).abs().max() > 1e-3  # training did change them
    states = [c.model.hidden_states(c.model.embed(ids))[:, -3:] for c in (unmerged, merged)]
    pixel = torch.randn(2, 96, 32, 32, generator=torch.Generator().manual_seed(1))
    maps = [
        torch.sigmoid(c.model.products(s, pixel, (0, 1, 2))) for c, s in zip((unmerged, merged), states, strict=True)
    ]
    torch.testing.assert_close(maps[1], maps[0], rtol=0, atol=1e-4)


def test_a_merged_checkpoint_is_clean_and_says_where_it_comes_from(adapted: Path, tmp_path: Path) -> None:
    save_checkpoint(merge(adapted / "final"), tmp_path / "merged")
    again = load_checkpoint(tmp_path / "merged")
    assert again.provenance["merged"] is True
    assert again.provenance["lora_rank"] == 16
    assert again.provenance["base"]["provenance"]["step"] == 4
    ReferenceSegmenter(again).segment(np.zeros((8, 8, 3), np.uint8))


def test_adapters_refuse_another_base(adapted: Path, small_folder: Path) -> None:
    with pytest.raises(InputError, match="but the adapters were trained on"):
        merge(adapted / "final", small_folder)
    with pytest.raises(InputError, match="name its folder with --base"):
        merge(adapted / "final", small_folder / "nowhere")


@pytest.mark.parametrize("name", [MODEL, "config.json", "tokenizer.json", "templates.json"])
def test_a_checkpoint_without_a_file_is_refused(small_folder: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    (broken / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_checkpoint(broken)


def test_cut_weights_are_refused(small_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_folder, broken)
    (broken / MODEL).write_bytes((broken / MODEL).read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_checkpoint(broken)


def test_batches_depend_on_seed_and_step_only(small_folder: Path) -> None:
    checkpoint = load_checkpoint(small_folder)
    stream = SynthStream(
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        templates=checkpoint.templates,
        mixture=dict.fromkeys(Task, 1.0),
        synth=SynthConfig(),
        seed=3,
        batch_size=2,
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

    turn = draw_turn(sample, checkpoint.templates, {Task.DIRECT: 1.0}, random.Random(0))
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
