"""The runtime on Python 3.10 (JetPack's): its own resolution of the constraints, and the embedded bundle in it."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = REPOSITORY / "agvas_runtime" / "demo" / "frames"


def python310() -> str | None:
    """An interpreter of 3.10, if one is at hand."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (shutil.which("python3.10"), *sorted(pyenv.glob("3.10.*/bin/python"))):
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return str(found)
    return None


@pytest.mark.skipif(python310() is None, reason="no Python 3.10 here")
@pytest.mark.installs
def test_the_embedded_bundle_runs_and_is_served_on_python_310(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([str(python310()), "-m", "venv", tmp_path / "venv"], check=True)
    install = [python, "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", ".[cpu]"]
    subprocess.run(install, cwd=REPOSITORY, check=True)
    image = next(iter(sorted(FRAMES.glob("*.jpg"))))
    done = subprocess.run(
        [python, "-m", "agvas_runtime.cli", "segment", image, "--out", tmp_path / "out", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(done.stdout)
    assert row["answer_kind"] in ("segmented", "rejected")
    assert Path(row["mask"]).is_file()
    demo = [python, "-m", "agvas_runtime.demo", "--count", "2", "--fps", "0", "--out", tmp_path / "demo"]
    served = subprocess.run(demo, capture_output=True, text=True, check=False)
    assert served.returncode == 0, served.stderr
