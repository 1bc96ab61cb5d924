"""With which options a run goes on: those that decide what it learns are the ones it began with."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_train.config import TrainConfig
from agvas_train.loop import Resumed, latest_checkpoint
from agvas_train.parallel import read_deepspeed

TRAIN_CONFIG, DEEPSPEED, FINAL = "train.json", "deepspeed.json", "final"
FREE = ("workers", "save_every", "keep")
"""Options that may be others when a run goes on: what it learns does not hang on them."""
NOTED = ("micro_batch", "gradient_checkpointing")
"""These too, but for rounding and dropout: that is said."""


def recorded(run: Path, config: TrainConfig) -> tuple[TrainConfig, Resumed | None]:
    """The configuration that a run goes on with, and its newest checkpoint.

    Raises:
        InputError: there is no run, it is done, or `config` would have it learn otherwise than it began.
    """
    path = run / TRAIN_CONFIG
    if not path.is_file():
        raise InputError(f"{run}: nothing to resume, {TRAIN_CONFIG} is missing")
    try:
        found = TrainConfig.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    # a base may have moved: its hash tells whether it is the same; so may data sets, whose samples are counted
    found = found.model_copy(update={"base": config.base if found.base else None})
    asked = config.model_copy(update={"base_sha256": found.base_sha256})
    if (data := found.data) and config.data:
        found = found.model_copy(update={"data": data.model_copy(update={"root": config.data.root})})
        asked = asked.model_copy(update={"data": config.data.model_copy(update={"samples": data.samples})})
    if found.deepspeed and asked.deepspeed:  # moved, too: what it says counts
        _check_deepspeed(run, Path(asked.deepspeed), moved=found.deepspeed != asked.deepspeed)
        found = found.model_copy(update={"deepspeed": asked.deepspeed})
    differ = [n for n in TrainConfig.model_fields if getattr(found, n) != getattr(asked, n)]
    if fixed := [name for name in differ if name not in (*FREE, *NOTED)]:
        raise InputError(f"{run}: was started with another configuration ({', '.join(fixed)} differ)")
    if (run / FINAL).is_dir():
        raise InputError(f"{run}: all {found.steps} steps are done already")
    for name in [name for name in differ if name in NOTED]:
        before, now = getattr(found, name), getattr(asked, name)
        _note(f"{run}: {name} was {before} and is {now} from here on: losses differ by rounding and dropout")
    return asked, latest_checkpoint(run)


def _check_deepspeed(run: Path, file: Path, *, moved: bool) -> None:
    """Raise InputError unless a DeepSpeed file says what it said when the run began; older runs have not kept that."""
    kept = run / DEEPSPEED
    if not kept.is_file():
        if moved:
            _note(f"{run}: has kept no {DEEPSPEED}; {file} is taken to say what the run began with")
    elif read_deepspeed(file) != read_deepspeed(kept):
        raise InputError(f"{file}: says something else than what the run began with, expected what {kept} says")


def _note(text: str) -> None:
    """A note of the first process alone, known before the processes have joined."""
    if os.environ.get("RANK", "0") == "0":
        console.note(text)
