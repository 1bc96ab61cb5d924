"""Folders of runs that are named where a checkpoint or adapters belong: the error says what to name instead."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agvas_runtime.errors import InputError
from agvas_train.cli import app

ADAPTERS, WHOLE = ("adapter.json", "adapter.safetensors"), ("model.safetensors",)


def run_with(root: Path, files: tuple[str, ...], *, final: bool) -> Path:
    """A run of two checkpoints with these files, and with or without its end."""
    run = root / "run"
    for place in ("checkpoints/step-000001", "checkpoints/step-000002", *(["final"] if final else [])):
        (run / place).mkdir(parents=True)
        for name in (*files, "state.json"):
            (run / place / name).write_text('{"step": 2}')
    return run


def error(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


@pytest.mark.parametrize("command", [("info",), ("--dry-run", "--from")])
@pytest.mark.parametrize(
    ("files", "final", "named", "reason"),
    [
        (ADAPTERS, True, "final", "found LoRA adapters, {0}merge them first (agvas-train merge {1}/final {3})"),
        (ADAPTERS, True, "", "found a LoRA run, {0}merge it first (agvas-train merge {1} {3})"),
        (ADAPTERS, False, "", "found a run that is not finished, {0}{2}, or merge {1}/checkpoints/step-000002"),
        (WHOLE, False, "", "found a run that is not finished, {0}{2}, or name {1}/checkpoints/step-000002"),
        (WHOLE, True, "", "found a run, {0}name {1}/final"),
        (WHOLE, True, "checkpoints", "not a checkpoint, model.safetensors is missing"),
    ],
)
def test_where_a_checkpoint_belongs(
    command: tuple[str, ...], files: tuple[str, ...], final: bool, named: str, reason: str, tmp_path: Path
) -> None:
    run = run_with(tmp_path, files, final=final)
    resume = f"go on with it (agvas-train --resume --out {run})"
    expected = f"{run / named}: {reason.format('expected a checkpoint: ', run, resume, '--out FOLDER')}"
    assert error(*command, run / named) == expected


@pytest.mark.parametrize(
    ("files", "final", "reason"),
    [
        (ADAPTERS, False, ": found a run that is not finished: {1}, or merge {0}/checkpoints/step-000002"),
        (WHOLE, False, ": found a whole checkpoint, expected LoRA adapters (adapter.json and {2})"),
        (WHOLE, True, "/final: found a whole checkpoint, expected LoRA adapters (adapter.json and {2})"),
        ((), True, "/final: found no adapters, expected LoRA adapters (adapter.json and {2})"),
    ],
)
def test_where_adapters_belong(files: tuple[str, ...], final: bool, reason: str, tmp_path: Path) -> None:
    run = run_with(tmp_path, files, final=final)
    resume = f"go on with it (agvas-train --resume --out {run})"
    assert error("merge", run, "--out", tmp_path / "merged") == f"{run}{reason.format(run, resume, ADAPTERS[1])}"
