"""The scripts import each other by their names, as they do where they are run."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "gpu"))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """torch's own generator is at the same place before every test, whatever ran before."""
    torch.manual_seed(0)
