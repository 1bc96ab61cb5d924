"""Runs of `agvas-train` by the shipped recipe over the miniatures, and how they go on and fail."""

import json
import math
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agvas_runtime.errors import InputError
from agvas_train.cli import app
from agvas_train.data.conversation import Task
from agvas_train.data.mixture.opening import open_mixture
from agvas_train.data.sets.registry import REGISTRY
from tests.train.conftest import losses
from tests.train.mixture.mixed import BATCH, mixture, recipe, silent
from tests.train.processes import train as run_processes
from tests.train.sets.miniatures import write_all

IN_MIXTURE = [entry.name for entry in REGISTRY.values() if entry.in_mixture]


def train(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, ["--config", "tiny-mixture", "--batch-size", str(BATCH), *map(str, arguments)])
    if result.exception:
        raise result.exception


@pytest.fixture(scope="module")
def epoch(root: Path) -> int:
    """As many steps as the miniatures hold samples, and more until every set and every task was drawn."""
    config = recipe(root)
    assert config.data is not None
    samples = sum(map(len, open_mixture(config.data, config.mixture, silent).values()))
    mixed, unmet = mixture(root), {*IN_MIXTURE, *Task}
    drawn = 0
    while drawn < samples or unmet:
        pick = mixed.pick(drawn)
        unmet -= {pick.part.set, pick.task}
        drawn += 1
    return math.ceil(drawn / BATCH)


@pytest.fixture(scope="module")
def run(root: Path, epoch: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mixture"
    train("--data", root, "--steps", str(epoch), "--save-every", str(epoch // 2), "--out", out)
    return out


def test_an_epoch_of_the_mixture_trains_the_tiny_model(run: Path, root: Path, epoch: int) -> None:
    figures = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(figures) == epoch
    assert all(math.isfinite(step["loss"]) and step["dice"] > 0 for step in figures)
    assert figures[-1]["text"] < figures[0]["text"]
    drawn = [mixture(root).draw(index) for index in range(epoch * BATCH)]
    assert {each.turn.task for each in drawn} == set(Task)
    assert {each.source.set for each in drawn} == set(IN_MIXTURE)
    assert {each.turn.answer.count("[") for each in drawn} == {0, 1, 3}
    provenance = json.loads((run / "final/provenance.json").read_text())
    assert provenance["data"].split(", ") == IN_MIXTURE
    assert str(root) not in json.dumps(provenance)


def test_two_processes_have_the_losses_of_one(run: Path, root: Path, epoch: int, tmp_path: Path) -> None:
    arguments = ["--config", "tiny-mixture", "--batch-size", BATCH, "--data", root, "--steps", epoch, "--out", "two"]
    done = run_processes(tmp_path, *map(str, arguments), said=tmp_path / "said", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(run), rel=1e-4)


def test_a_resumed_run_has_the_same_losses_wherever_the_sets_are_now(run: Path, root: Path, tmp_path: Path) -> None:
    again, moved = tmp_path / "again", tmp_path / "moved"
    shutil.copytree(run, again)
    shutil.copytree(root, moved)
    shutil.rmtree(again / "final")
    shutil.rmtree(max((again / "checkpoints").iterdir()))
    arguments = ("--resume", "--data", moved, "--out", again)
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert losses(again) == losses(run)


def test_a_run_does_not_go_on_with_other_sets(run: Path, root: Path, tmp_path: Path) -> None:
    again, fewer = tmp_path / "again", tmp_path / "fewer"
    shutil.copytree(run, again)
    shutil.copytree(root, fewer)
    shutil.rmtree(again / "final")
    (fewer / "ade20k/images/training/ADE_train_2.jpg").unlink()
    result = CliRunner().invoke(app, ["--resume", "--data", str(fewer), "--out", str(again)])
    assert "ade20k: found 1 samples, expected 2 as when the run began" in str(result.exception)


def test_what_a_loading_process_cannot_read_ends_the_run_in_one_line(tmp_path: Path) -> None:
    root = write_all(tmp_path / "sets")
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(
        f"preset: tiny\ncorpus_samples: 0\nworkers: 1\nmixture: {{direct: 1}}\ndata: {{root: {root}, sets: [road]}}\n"
    )
    (root / "anomaly_seg/Road/road/test/good/000.bmp").write_bytes(b"BM")
    with pytest.raises(
        InputError, match=r"^road, normal: found 1 unreadable of 2 samples met, expected a sha"
    ) as caught:
        train("--config", recipe_file, "--out", tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_no_data_is_one_line_and_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: found no folder, expected the root of the data sets"):
        train("--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_which_sets_are_drawn(root: Path) -> None:
    result = CliRunner().invoke(app, ["--config", "7b", "--data", str(root), "--dry-run", "--json"])
    found = json.loads(result.stdout)["data"]
    assert found["found"]
    assert found["missing"] == []
    assert found["sets"] == IN_MIXTURE
    without = CliRunner().invoke(app, ["--config", "7b", "--data", "none", "--dry-run", "--json"])
    assert json.loads(without.stdout)["data"] is None


def test_a_dry_run_refuses_a_named_set_that_is_not_there(tmp_path: Path) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(f"preset: tiny\nmixture: {{direct: 1}}\ndata: {{root: {tmp_path}, sets: [road]}}\n")
    with pytest.raises(InputError, match=r"^road: found no anomaly_seg/Road in "):
        train("--config", recipe_file, "--dry-run")
