"""Checkpoints that survive: runs that are killed at any moment go on, and a full disk costs nothing that was whole."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from agvas_train.checkpoint import load_checkpoint
from agvas_train.loop import latest_checkpoint

from .conftest import losses
from .processes import begin, train

STEPS = 8
RECIPE = f"""
preset: tiny
steps: {STEPS}
batch_size: 2
save_every: 1
warmup_steps: 2
vocabulary_size: 700
corpus_samples: 0
workers: 0
"""


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""So that a process of Python's own computes to the bit what a forked one does."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, and a run of it that nothing disturbed."""
    root = tmp_path_factory.mktemp("survival")
    (root / "recipe.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "agvas_train", *new(root), "undisturbed", "--json"]
    done = subprocess.run(command, cwd=root, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (root / "stdout").write_text(done.stdout)
    return root


def new(root: Path) -> list[str]:
    return ["--config", str(root / "recipe.yaml"), "--out"]


def resume(run: Path, said: Path) -> None:
    """Go on with a run, to its end."""
    done = train(run.parent, "--resume", "--out", run.name, said=said)
    assert done.returncode == 0, done.stderr


def kill_when(process: ForkServerProcess, seen: list[object], look: Callable[[], object]) -> None:
    """Kill a process as soon as `look` finds something, or let it end."""
    while process.is_alive():
        if found := look():
            process.kill()
            seen.append(found)
            break
        process.join(0.002)
    process.join()


def test_stdout_is_one_json_document_whatever_libraries_print(folder: Path) -> None:
    """DeepSpeed, where it is installed, warns on stdout as soon as it is imported."""
    assert json.loads((folder / "stdout").read_text())["final"] == "undisturbed/final"


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(folder: Path, tmp_path: Path) -> None:
    """Killed once while it writes its first checkpoint, once between two steps, once while it writes a later one."""
    run, seen = folder / "killed", []
    writing = lambda: [p.name for p in run.glob("checkpoints/.step-*") if any(p.iterdir())]  # noqa: E731
    lines = lambda: len(losses(run)) >= 3 if (run / "metrics.jsonl").is_file() else False  # noqa: E731
    for attempt, look in enumerate((writing, lines, writing)):
        before = latest_checkpoint(run).step if latest_checkpoint(run) else 0
        options = ["--resume", "--out"] if attempt else new(folder)
        kill_when(begin(folder, *options, "killed", said=tmp_path / "said"), seen, look)
        newest = latest_checkpoint(run)
        done = len(losses(run)) if (run / "metrics.jsonl").is_file() else 0
        assert (newest.step if newest else 0) >= max(before, done - 1)  # at most the steps since the last checkpoint
        if newest:
            load_checkpoint(newest.folder)
    assert len(seen) == 3
    resume(run, tmp_path / "last")
    assert not list(run.glob("checkpoints/.*"))
    assert losses(run) == losses(folder / "undisturbed")
    weights = [path / "final" / "model.safetensors" for path in (run, folder / "undisturbed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_line_that_a_kill_cut_short_is_dropped(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "undisturbed", run)
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:06d}")
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole[: len(whole) - 40])
    resume(run, tmp_path / "said")
    assert losses(run) == losses(folder / "undisturbed")


def test_a_run_killed_before_its_final_checkpoint_only_writes_that(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "undisturbed", run)
    shutil.rmtree(run / "final")
    resume(run, tmp_path / "said")
    assert (run / "final" / "model.safetensors").read_bytes() == (
        folder / "undisturbed" / "final" / "model.safetensors"
    ).read_bytes()


FULL = """
mount -t tmpfs -o size=50m tmpfs {disk} || exit 99
cd {disk}
{command}
code=$?
cp -r run {copy}
exit $code
"""


def test_a_full_disk_names_the_path_and_leaves_the_checkpoints_whole(folder: Path, tmp_path: Path) -> None:
    """A real disk of 50 MB, which holds two checkpoints of this run and no third."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    command = " ".join([sys.executable, "-m", "agvas_train", *new(folder), "run"])
    script = FULL.format(disk=disk, copy=copy, command=command)
    unshare = ["unshare", "--mount", "--map-root-user", "bash", "-c", script]
    done = subprocess.run(unshare, env=ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("this machine lets nobody mount a small disk (unshare, tmpfs)")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "No space left on device" in line
    assert "checkpoints/.step-000003" in line
    assert line.endswith("the newest whole checkpoint is run/checkpoints/step-000002")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    load_checkpoint(copy / "checkpoints" / "step-000002")
    resume(copy, tmp_path / "said")
    assert losses(copy) == losses(folder / "undisturbed")


def test_two_processes_do_not_train_in_one_folder(folder: Path, tmp_path: Path) -> None:
    run = folder / "taken"
    first = begin(folder, *new(folder), "taken", "--steps", "500", said=tmp_path / "first")
    seen: list[object] = []

    def second_start() -> bool:
        """Resume the run that is under way; it must be refused."""
        if not (run / "metrics.jsonl").is_file():
            return False
        again = train(folder, "--resume", "--out", "taken", said=tmp_path / "second")
        assert again.returncode == 2
        assert "another process trains in this folder now" in again.stderr
        return True

    try:
        kill_when(first, seen, second_start)
    finally:
        first.kill()
        first.join()
    assert seen == [True]


def test_old_checkpoints_go_when_only_some_are_kept(folder: Path, tmp_path: Path) -> None:
    done = train(folder, *new(folder), "kept", "--keep", "2", said=tmp_path / "said")
    assert done.returncode == 0, done.stderr
    kept = sorted(path.name for path in (folder / "kept" / "checkpoints").iterdir())
    assert kept == [f"step-{STEPS - 1:06d}", f"step-{STEPS:06d}"]
    assert json.loads((folder / "kept" / "train.json").read_text())["keep"] == 2


def test_a_folder_beside_the_checkpoints_that_is_none_is_left_alone(tmp_path: Path) -> None:
    for name in ("step-000002", "step-000010", "step-000010.bak", "step-new"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "state.json").write_text('{"step": 10}')
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.folder.name == "step-000010"
