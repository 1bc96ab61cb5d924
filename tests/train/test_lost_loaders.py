"""Loading processes that are killed, as a system without memory does it: one line, and no traceback."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from agvas_runtime.errors import EngineError
from agvas_train.data.loading import naming_lost_loaders
from agvas_train.loop import latest_checkpoint

from .processes import begin

OPTIONS = """
preset: tiny
steps: 500
batch_size: 2
save_every: 1
keep: 2
vocabulary_size: 700
corpus_samples: 0
workers: 1
"""


def options(folder: Path) -> list[str]:
    """Those of a run in `folder`/run that loads in a process of its own."""
    (folder / "recipe.yaml").write_text(OPTIONS)
    return ["--config", "recipe.yaml", "--out", "run"]


def test_a_loading_process_that_is_killed_is_one_line(tmp_path: Path) -> None:
    run = begin(tmp_path, *options(tmp_path), said=tmp_path / "said")
    try:
        while run.is_alive() and not latest_checkpoint(tmp_path / "run"):
            run.join(0.01)
        for loader in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
            os.kill(int(loader), signal.SIGKILL)
        run.join()
    finally:
        run.kill()
        run.join()
    assert run.exitcode == 1
    newest = latest_checkpoint(tmp_path / "run")
    assert newest is not None
    (line,) = (tmp_path / "said.err").read_text().splitlines()
    assert line.startswith("error: DataLoader worker ")  # by its number, or without where its pipe ends first
    assert "(out of memory?): found 1 --workers, expected fewer; " in line
    assert line.endswith(f"the newest whole checkpoint is run/checkpoints/{newest.folder.name}")


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_a_loading_process_whose_pipe_ends_first_is_one_line_too(error: Exception) -> None:
    with (
        pytest.raises(EngineError, match=r"DataLoader worker ended .* \(out of memory\?\): found 2 --workers"),
        naming_lost_loaders(2),
    ):
        raise error


@pytest.mark.parametrize(
    ("error", "workers"),
    [(RuntimeError("of another kind"), 2), (EOFError("Caught EOFError in a worker"), 2), (EOFError(), 0)],
)
def test_what_no_lost_loader_raised_stays_as_it_is(error: Exception, workers: int) -> None:
    with pytest.raises(type(error)) as raised, naming_lost_loaders(workers):
        raise error
    assert raised.value is error


def test_a_run_and_its_loading_process_end_quietly_together(tmp_path: Path) -> None:
    """A process of Python's own: one of multiprocessing waits for its children in another way when it ends."""
    command = [sys.executable, "-m", "agvas_train", *options(tmp_path), "--workers", "3"]
    with subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True) as run:
        while run.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
            with suppress(subprocess.TimeoutExpired):
                run.wait(0.01)
        os.killpg(run.pid, signal.SIGTERM)
        said = run.communicate()[1]
    assert run.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert "Exception ignored" not in said
