"""Every download, and every set made of it, once."""

from pathlib import Path

import pytest

from agvas_train.data.standardize.run import standardize
from tests.train.standardize.downloads import DOWNLOADS


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each set."""
    root = tmp_path_factory.mktemp("downloads")
    for name, (make, _) in DOWNLOADS.items():
        make(root / name)
    return root


@pytest.fixture(scope="session")
def tree(downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's tree with all sets."""
    root = tmp_path_factory.mktemp("tree")
    for name in DOWNLOADS:
        standardize(name, downloads / name, root)
    return root
