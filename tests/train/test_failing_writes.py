"""What a run says, and what it keeps, when a file of it can be neither written nor removed."""

import errno
import re
import resource
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agvas_runtime.errors import EngineError
from agvas_train.runs import run_training

from .conftest import SHORT, losses, quiet


def unfinished(finished: Path, run: Path, *, last: bool = True) -> Path:
    """A copy of a run without its end: `final`, and the `last` checkpoint where that is to go, too."""
    shutil.copytree(finished, run)
    shutil.rmtree(run / "final")
    if last:
        shutil.rmtree(run / "checkpoints" / "step-000004")
    return run


def test_a_full_disk_under_the_final_checkpoint_blames_no_whole_one(finished: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    run = unfinished(finished, tmp_path / "run", last=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(EngineError) as caught:
            run_training(run, SHORT, resume=True, report=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    newest = run / "checkpoints" / "step-000004"
    expected = f"the newest whole checkpoint is {newest}, of which --resume writes final"
    assert re.fullmatch(rf"{run}/\.final-\w+\.part/\S+: cannot write: File too large; {expected}", str(caught.value))


def test_a_full_disk_under_the_metrics_names_them_and_the_newest_checkpoint(finished: Path, tmp_path: Path) -> None:
    run = unfinished(finished, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(EngineError) as caught:
        run_training(run, SHORT, resume=True, report=quiet)
    newest = f"the newest whole checkpoint is {run}/checkpoints/step-000002"
    assert str(caught.value) == f"{run}/metrics.jsonl: cannot write: No space left on device; {newest}"


def test_scalars_that_cannot_be_written_are_told_of_once(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(finished, tmp_path / "run")
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").write_text("in the way")
    run_training(run, SHORT, resume=True, report=quiet)
    assert losses(run) == losses(finished)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tensorboard" in line]
    assert line.startswith(f"{run}/tensorboard/events.out.tfevents.")
    assert line.endswith("no more scalars, metrics.jsonl goes on")


def test_tensorboard_reads_the_scalars_of_a_resumed_run(finished: Path, tmp_path: Path) -> None:
    run = unfinished(finished, tmp_path / "run")
    run_training(run, SHORT, resume=True, report=quiet)
    read = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("loss")
    assert [scalar.step for scalar in read] == [0, 1, 2, 3]
    assert [scalar.value for scalar in read] == pytest.approx(losses(finished))


def test_an_old_checkpoint_that_cannot_be_removed_ends_no_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remove = shutil.rmtree

    def busy(path: Path, ignore_errors: bool = False) -> None:
        if "step-000002" in Path(path).name:
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        remove(path, ignore_errors=ignore_errors)

    run = unfinished(finished, tmp_path / "run")
    monkeypatch.setattr(shutil, "rmtree", busy)
    run_training(run, SHORT.model_copy(update={"keep": 1}), resume=True, report=quiet)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [".step-000002.old", "step-000004"]
    assert f"{run}/checkpoints/.step-000002.old: cannot remove" in capsys.readouterr().err
    assert (run / "final").is_dir()
