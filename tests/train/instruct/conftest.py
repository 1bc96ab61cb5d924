"""A small data set for every test that asks for one."""

from pathlib import Path

import pytest

from tests.train.instruct.small_sets import make_small_set


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_small_set(tmp_path / "set")
