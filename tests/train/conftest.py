"""A small model for tests of training, and two short runs: from scratch, and LoRA on what that one made."""

import json
from pathlib import Path

import pytest
import torch

from agvas_train.checkpoint import Checkpoint, save_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.runs import fresh_checkpoint, run_training

SHORT = TrainConfig(
    preset="tiny", steps=4, batch_size=2, save_every=2, warmup_steps=2, vocabulary_size=700, corpus_samples=0, workers=0
)


def quiet(step: int, figures: dict[str, float]) -> None:
    pass


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "tiny"
    run_training(run, SHORT, resume=False, report=quiet)
    return run


@pytest.fixture(scope="session")
def adapted(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "lora"
    options = {"learning_rate": 1e-2, "seed": 7, "base": str(finished / "final"), "lora": 16}
    run_training(run, SHORT.model_copy(update=options), resume=False, report=quiet)
    return run


def small_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return fresh_checkpoint(TrainConfig(preset="tiny", vocabulary_size=700, corpus_samples=0))


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    save_checkpoint(small_checkpoint(), folder)
    return folder


@pytest.fixture
def small() -> Checkpoint:
    return small_checkpoint()


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """torch's own generator is at the same place before every test, whatever ran before."""
    torch.manual_seed(0)
