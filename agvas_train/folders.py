"""Which folder of a run was named where a checkpoint or LoRA adapters belong, and which to name instead."""

from __future__ import annotations

from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_train.loop import latest_checkpoint
from agvas_train.lora import ADAPTER, ADAPTER_CONFIG
from agvas_train.resume import FINAL
from agvas_train.weights.store import has_weights


def instead_of_checkpoint(folder: Path) -> str | None:
    """What a folder without weights is, and what to do with it; None where it is nothing that training writes."""
    if (folder / ADAPTER_CONFIG).is_file():
        return f"found LoRA adapters, expected a checkpoint: merge them first (agvas-train merge {folder} --out FOLDER)"
    if has_weights(final := folder / FINAL):
        return f"found a run, expected a checkpoint: name {final}"
    if final.is_dir():
        return f"found a LoRA run, expected a checkpoint: merge it first (agvas-train merge {folder} --out FOLDER)"
    if newest := latest_checkpoint(folder):
        verb = "name" if has_weights(newest.folder) else "merge"
        return f"found a run that is not finished, expected a checkpoint: {_finish(folder)}, or {verb} {newest.folder}"
    return None


def adapter_folder(named: Path) -> Path:
    """The folder with a run's LoRA adapters: its `final`, or what was named itself.

    Raises:
        InputError: it holds none; the message says what it is and what to do instead.
    """
    final = named / FINAL
    folder = final if final.is_dir() else named
    if (folder / ADAPTER_CONFIG).is_file():
        return folder
    newest = latest_checkpoint(named)
    if newest and folder is named and not has_weights(newest.folder):
        raise InputError(f"{named}: found a run that is not finished: {_finish(named)}, or merge {newest.folder}")
    found = "a whole checkpoint" if has_weights(newest.folder if newest else folder) else "no adapters"
    raise InputError(f"{folder}: found {found}, expected LoRA adapters ({ADAPTER_CONFIG} and {ADAPTER})")


def _finish(run: Path) -> str:
    return f"go on with it (agvas-train --resume --out {run})"
