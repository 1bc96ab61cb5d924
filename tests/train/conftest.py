"""A small model for tests of training: the tiny preset with a tokenizer of the templates alone."""

from pathlib import Path

import pytest
import torch

from agvas_train.checkpoint import Checkpoint, save_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.runs import fresh_checkpoint


def small_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    return fresh_checkpoint(TrainConfig(vocabulary_size=700, corpus_samples=0))


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    save_checkpoint(small_checkpoint(), folder)
    return folder


@pytest.fixture
def small() -> Checkpoint:
    return small_checkpoint()
