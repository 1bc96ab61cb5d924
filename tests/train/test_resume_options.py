"""What may be another when a run goes on: what it learns does not change, or a note says so."""

import json
import shutil
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError
from agvas_train.options import shipped_recipes
from agvas_train.resume import recorded
from agvas_train.runs import run_training

from .conftest import SHORT, losses, quiet

ZERO2, ZERO3 = (
    next(iter(shipped_recipes().values())).parent / "deepspeed" / name for name in ("zero2.json", "zero3.json")
)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run that has done half of its steps."""
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "final")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    return tmp_path / "run"


def test_a_run_goes_on_with_other_workers_saves_and_micro_batches(
    run: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"workers": 1, "save_every": 1, "keep": 2, "micro_batch": 1, "gradient_checkpointing": True}
    run_training(run, SHORT.model_copy(update=options), resume=True, report=quiet)
    assert losses(run) == pytest.approx(losses(finished), rel=1e-5)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000003", "step-000004"]
    notes = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines() if line.startswith(f"{run}: ")]
    rest = "from here on: losses differ by rounding and dropout"
    assert notes == [
        f"micro_batch was None and is 1 {rest}",
        f"gradient_checkpointing was False and is True {rest}",
    ]


def began_with(run: Path, file: Path) -> None:
    """Have a run's record say that it began with this DeepSpeed file."""
    path = run / "train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "deepspeed": str(file)}))


def test_a_deepspeed_file_may_have_moved_but_says_the_same(run: Path) -> None:
    began_with(run, Path("/old/venv/zero2.json"))
    (run / "deepspeed.json").write_text(json.dumps(json.loads(ZERO2.read_text())))  # laid out another way
    config, _ = recorded(run, SHORT.model_copy(update={"deepspeed": str(ZERO2)}))
    assert config.deepspeed == str(ZERO2)
    with pytest.raises(InputError, match=r"zero3\.json: says something else than what the run began with, expected"):
        recorded(run, SHORT.model_copy(update={"deepspeed": str(ZERO3)}))
    with pytest.raises(InputError, match=r"another configuration \(deepspeed differ\)"):
        recorded(run, SHORT)


def test_a_deepspeed_file_that_nobody_kept_may_move_with_a_note(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began_with(run, Path("/old/venv/zero2.json"))
    recorded(run, SHORT.model_copy(update={"deepspeed": str(ZERO2)}))
    (note,) = capsys.readouterr().err.splitlines()
    assert note == f"{run}: has kept no deepspeed.json; {ZERO2} is taken to say what the run began with"
