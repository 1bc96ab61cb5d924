"""The miniatures of all sets, written once."""

from pathlib import Path

import pytest

from tests.train.sets.miniatures import write_all


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("mixture"))
