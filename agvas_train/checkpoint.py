"""Checkpoint folders: weights (see weights/store.py), config.json, tokenizer.json, templates.json, provenance.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.files import check_replaceable, hidden_folder
from agvas_runtime.prompts import Prompter, PromptSpec
from agvas_runtime.templates import Templates, parse_templates
from agvas_train.model import AGVAS, ModelConfig
from agvas_train.weights.load import check_tensors, materialise, named_tensors
from agvas_train.weights.reader import LazyTensors, in_memory
from agvas_train.weights.store import MODEL, SHARD_BYTES, cast, has_weights, read_weights, write_text, write_weights

CONFIG, TOKENIZER, TEMPLATES, PROVENANCE = "config.json", "tokenizer.json", "templates.json", "provenance.json"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class CheckpointConfig(BaseModel):
    """What `config.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig
    prompt: PromptSpec
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the weights are loaded as; files that they were left in may hold another precision."""


@dataclass(kw_only=True)
class CheckpointInfo:
    """Everything of a checkpoint but its weights."""

    config: CheckpointConfig
    tokenizer_json: str
    templates_json: str
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def prompter(self) -> Prompter:
        """Its tokenizer and chat template."""
        return Prompter(self.tokenizer_json, self.config.prompt)

    @property
    def templates(self) -> Templates:
        """Its sentences."""
        return parse_templates(self.templates_json, name=TEMPLATES)

    @property
    def dtype(self) -> torch.dtype:
        """What its weights are loaded as."""
        return DTYPES[self.config.dtype]


@dataclass(kw_only=True)
class Checkpoint(CheckpointInfo):
    """A model and everything that belongs to it."""

    model: AGVAS

    @property
    def info(self) -> CheckpointInfo:
        """Everything but the model."""
        return CheckpointInfo(**{name: value for name, value in vars(self).items() if name != "model"})


def default_checkpoint_path() -> Path:
    """The embedded tiny checkpoint that ships with agvas."""
    return Path(str(files("agvas_train").joinpath("default")))


def require_new(folder: Path) -> None:
    """Raise InputError when a folder is not empty or cannot be replaced; worth knowing before the work to fill it."""
    check_replaceable(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; expected a new or empty folder")
    above = next((parent for parent in folder.absolute().parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise InputError(f"{folder}: {above} is a file, expected a folder")


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder through a hidden sibling, so that it is never seen half-written, not even after a power cut.

    A sibling that a killed process left is removed.

    Raises:
        InputError: the folder exists and is not empty, or cannot be replaced.
        EngineError: a file cannot be written; nothing is left behind then.
    """
    require_new(folder)
    folder = folder.resolve() if folder.is_symlink() else folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hidden_folder(folder) as temporary:
            write(temporary)
            for path in temporary.rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o644)
            temporary.chmod(0o755)
            for path in (*temporary.rglob("*"), temporary):
                _to_disk(path)
            os.replace(temporary, folder)
            _to_disk(folder.parent)
    except OSError as error:
        raise EngineError(f"{error.filename or folder}: cannot write: {error.strerror}") from None


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model in memory as a checkpoint folder; raises what `write_checkpoint` raises."""
    write_checkpoint(checkpoint.info, in_memory(named_tensors(checkpoint.model)), folder)


def write_checkpoint(
    info: CheckpointInfo,
    tensors: LazyTensors,
    folder: Path,
    *,
    by_reference: bool = False,
    shard_bytes: int = SHARD_BYTES,
    step: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a checkpoint folder from tensors that are still to be read, one shard in memory at a time.

    Args:
        by_reference: leave tensors that came unchanged from a file there, and record that file's hash.
        step: called with what is being done now.

    Raises:
        InputError: the tensors are not the configuration's, or the folder exists already.
        EngineError: a file cannot be written; nothing is left behind then.
    """
    check_tensors(info.config.model, tensors, str(folder))

    def write(temporary: Path) -> None:
        write_weights(
            cast(tensors, info.dtype), temporary, by_reference=by_reference, shard_bytes=shard_bytes, step=step
        )
        write_info_files(info, temporary)

    write_folder(folder, write)


def write_info_files(info: CheckpointInfo, folder: Path) -> None:
    """Everything of a checkpoint but its weights."""
    write_text(folder / CONFIG, info.config.model_dump_json(indent=1) + "\n")
    write_text(folder / TOKENIZER, info.tokenizer_json)
    write_text(folder / TEMPLATES, info.templates_json)
    write_text(folder / PROVENANCE, json.dumps(info.provenance, indent=1) + "\n")


def read_info(folder: Path) -> CheckpointInfo:
    """A checkpoint's configuration, tokenizer and sentences, checked; its weights are only seen to be there.

    Raises:
        InputError: a file is missing or unreadable, or the tokenizer lacks a token that the prompt needs.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    if not has_weights(folder):
        from agvas_train.folders import instead_of_checkpoint  # imports the training

        raise InputError(f"{folder}: {instead_of_checkpoint(folder) or f'not a checkpoint, {MODEL} is missing'}")
    for name in (CONFIG, TOKENIZER, TEMPLATES):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: not a checkpoint, {name} is missing")
    try:
        config = CheckpointConfig.model_validate_json(_text(folder / CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{folder / CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    provenance = _text(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else "{}"
    try:
        made = json.loads(provenance)
    except ValueError as error:
        raise InputError(f"{folder / PROVENANCE}: not JSON: {error}") from None
    if not isinstance(made, dict):
        raise InputError(f"{folder / PROVENANCE}: found {type(made).__name__}, expected an object")
    info = CheckpointInfo(
        config=config,
        tokenizer_json=_text(folder / TOKENIZER),
        templates_json=_text(folder / TEMPLATES),
        provenance=made,
    )
    try:
        size, rows = info.prompter.vocabulary_size, int(config.model.language["vocab_size"])
        parse_templates(info.templates_json, name=TEMPLATES)
    except BundleError as error:
        raise InputError(f"{folder}: {error}") from None
    if size > rows:
        raise InputError(f"{folder}: {TOKENIZER} has {size} tokens, {CONFIG} has embeddings for {rows}")
    return info


def load_checkpoint(
    folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Load a checkpoint folder, in memory of its own size and one tensor.

    Args:
        dtype: precision of the weights; the checkpoint's own when None.

    Raises:
        InputError: a file is missing or unreadable, or the weights do not fit the configuration exactly.
    """
    info = read_info(folder)
    try:
        model = materialise(
            info.config.model, read_weights(folder), name=str(folder), dtype=dtype or info.dtype, device=device
        )
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from None
    return Checkpoint(**vars(info), model=model)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None
