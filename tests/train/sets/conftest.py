"""All miniatures, written once, and the sets opened from them."""

from pathlib import Path

import pytest

from agvas_train.data.sets.adapter import Adapter
from agvas_train.data.sets.registry import open_sets
from tests.train.sets.miniatures import write_all


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="session")
def sets(root: Path) -> dict[str, Adapter]:
    return open_sets(root)
