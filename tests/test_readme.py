"""The README's own command lines, run in a fresh copy of the repository.

Every ```sh block is one script; the blocks run in order in one folder, so a block can use what an earlier one made.
Blocks of another kind (```console, ```text) are not run. Left out: fetching the repository, and the commands that would
run these very tests.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LEFT_OUT = ("git clone", "cd agvas", "make test", "make test-full", "bash .ci/run")
TIMEOUT_S = 1200

PREAMBLE = """
set -euo pipefail
trap 'for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done; wait' EXIT
"""


def blocks() -> list[str]:
    """The scripts of the README."""
    return re.findall(r"^```sh\n(.*?)^```", (REPOSITORY / "README.md").read_text(), flags=re.M | re.S)


def to_run(block: str) -> str:
    """The block without the lines that are left out."""
    lines = [line for line in block.splitlines() if not line.strip().startswith(LEFT_OUT)]
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The repository as a newcomer has it: what git tracks or would track, and nothing that was built."""
    target = tmp_path_factory.mktemp("readme") / "agvas"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):
        if name and (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)
    return target


def test_the_readme_names_the_two_commands_that_do_everything():
    commands = [line.split("#")[0].strip() for block in blocks() for line in block.splitlines()]
    assert "make demo" in commands
    assert "make test" in commands
    assert "make test" in (REPOSITORY / ".ci" / "run").read_text()


def test_no_figure_was_left_to_be_filled_in():
    for name in ("README.md", "CHANGELOG.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))):
        assert not re.search(r"@[A-Z0-9]+@|TODO|TBD", (REPOSITORY / name).read_text()), name


@pytest.mark.installs
def test_the_readme_s_commands_work_one_after_the_other(copy):
    # A newcomer has no virtual environment yet, and starts make by hand, so nothing of these is passed on.
    ours = ("PYTHON", "VIRTUAL", "MAKE", "MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    scripts = [script for script in map(to_run, blocks()) if script]
    assert scripts
    for script in scripts:
        command = ["bash", "-c", PREAMBLE + script]
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
