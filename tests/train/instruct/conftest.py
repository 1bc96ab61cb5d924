"""What these tests share: a small data set, and Ray where it is installed."""

import importlib.util
from pathlib import Path

import pytest

from tests.train.instruct.small_sets import make_small_set


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_small_set(tmp_path / "set")


@pytest.fixture
def ray() -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed (agvas[ray])")
