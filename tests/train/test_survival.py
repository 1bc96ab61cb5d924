"""Checkpoints that survive: runs that are killed at any moment go on, and a full disk costs nothing that was whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agvas_train.checkpoint import load_checkpoint
from agvas_train.loop import latest_checkpoint

from .conftest import losses

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, and a run of it that nothing disturbed."""
    root = tmp_path_factory.mktemp("survival")
    (root / "recipe.yaml").write_text(RECIPE)
    done = subprocess.run(command(root, "undisturbed"), cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


def command(root: Path, run: str, *, resume: bool = False) -> list[str]:
    options = ["--resume"] if resume else ["--config", str(root / "recipe.yaml")]
    return [sys.executable, "-m", "agvas_train", *options, "--out", run]


def kill_when(process: subprocess.Popen[bytes], seen: "list[object]", look) -> None:
    """Kill a process as soon as `look` finds something, or let it end."""
    while process.poll() is None:
        if found := look():
            process.send_signal(signal.SIGKILL)
            seen.append(found)
            break
        try:
            process.wait(timeout=0.002)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(folder: Path) -> None:
    """Killed once while it writes its first checkpoint, once between two steps, once while it writes a later one."""
    run, seen = folder / "killed", []
    writing = lambda: [p.name for p in run.glob("checkpoints/.step-*") if any(p.iterdir())]  # noqa: E731
    lines = lambda: len(losses(run)) >= 3 if (run / "metrics.jsonl").is_file() else False  # noqa: E731
    for attempt, look in enumerate((writing, lines, writing)):
        before = latest_checkpoint(run).step if latest_checkpoint(run) else 0
        process = subprocess.Popen(command(folder, "killed", resume=attempt > 0), cwd=folder, stderr=subprocess.DEVNULL)
        kill_when(process, seen, look)
        newest = latest_checkpoint(run)
        done = len(losses(run)) if (run / "metrics.jsonl").is_file() else 0
        assert (newest.step if newest else 0) >= max(before, done - 1)  # at most the steps since the last checkpoint
        if newest:
            load_checkpoint(newest.folder)
    assert len(seen) == 3
    last = subprocess.run(
        command(folder, "killed", resume=True), cwd=folder, capture_output=True, text=True, check=False
    )
    assert last.returncode == 0, last.stderr
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
    done = subprocess.run(command(folder, str(run), resume=True), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(run) == losses(folder / "undisturbed")


def test_a_run_killed_before_its_final_checkpoint_only_writes_that(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder / "undisturbed", run)
    shutil.rmtree(run / "final")
    done = subprocess.run(command(folder, str(run), resume=True), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
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
    script = FULL.format(disk=disk, copy=copy, command=" ".join(command(folder, "run")))
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "bash", "-c", script], capture_output=True, text=True, check=False
    )
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
    again = subprocess.run(command(folder, str(copy), resume=True), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert losses(copy) == losses(folder / "undisturbed")


def test_two_processes_do_not_train_in_one_folder(folder: Path) -> None:
    run = folder / "taken"
    first = subprocess.Popen([*command(folder, "taken"), "--steps", "500"], cwd=folder, stderr=subprocess.DEVNULL)
    seen: list[object] = []
    try:
        kill_when(first, seen, lambda: second_start(folder) if (run / "metrics.jsonl").is_file() else None)
    finally:
        first.kill()
        first.wait()
    assert seen == [True]


def second_start(folder: Path) -> bool:
    """Resume the run that is under way; it must be refused."""
    again = subprocess.run(
        command(folder, "taken", resume=True), cwd=folder, capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "another process trains in this folder now" in again.stderr
    return True


def test_old_checkpoints_go_when_only_some_are_kept(folder: Path) -> None:
    keep = [*command(folder, "kept"), "--keep", "2"]
    done = subprocess.run(keep, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    kept = sorted(path.name for path in (folder / "kept" / "checkpoints").iterdir())
    assert kept == [f"step-{STEPS - 1:06d}", f"step-{STEPS:06d}"]
    assert json.loads((folder / "kept" / "train.json").read_text())["keep"] == 2
