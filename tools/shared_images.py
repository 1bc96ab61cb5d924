"""Where the evaluation images lie: beside the repository, in it, or where AGVAS_SHARED says."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def real_images() -> Path | None:
    """The folder of real defects, where there is one."""
    places = (os.environ.get("AGVAS_SHARED"), REPOSITORY.parent / "shared", REPOSITORY / "shared")
    return next((Path(p) / "data/real_open" for p in places if p and (Path(p) / "data/real_open").is_dir()), None)
