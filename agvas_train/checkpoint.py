"""Checkpoint folders: model.safetensors, config.json, tokenizer.json, templates.json, provenance.json. No pickle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from agvas_runtime.errors import InputError
from agvas_runtime.prompts import Prompter, PromptSpec
from agvas_runtime.templates import Templates, parse_templates
from agvas_train.model import AGVAS, ModelConfig, build_agvas

MODEL, CONFIG, TOKENIZER, TEMPLATES, PROVENANCE = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "templates.json",
    "provenance.json",
)


class CheckpointConfig(BaseModel):
    """What `config.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig
    prompt: PromptSpec


@dataclass
class Checkpoint:
    """A model and everything that belongs to it."""

    model: AGVAS
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


def default_checkpoint_path() -> Path:
    """The embedded tiny checkpoint that ships with agvas."""
    return Path(str(files("agvas_train").joinpath("default")))


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder through a temporary sibling, so that it is never seen half-written.

    Raises:
        InputError: the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already; expected a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(temporary)
        for path in temporary.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def tensors_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state dict with tied tensors once and everything contiguous, as safetensors wants it."""
    seen: dict[int, str] = {}
    tensors = {}
    for name, tensor in model.state_dict().items():
        if seen.setdefault(tensor.data_ptr(), name) == name or tensor.numel() == 0:
            tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint folder; raises InputError when it exists already."""
    write_folder(folder, lambda temporary: write_checkpoint_files(checkpoint, temporary))


def write_checkpoint_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint's files into an existing folder."""
    save_file(tensors_of(checkpoint.model), folder / MODEL)
    write_config_files(checkpoint, folder)


def write_config_files(checkpoint: Checkpoint, folder: Path) -> None:
    """Everything of a checkpoint but its weights."""
    (folder / CONFIG).write_text(checkpoint.config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / TOKENIZER).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    (folder / TEMPLATES).write_text(checkpoint.templates_json, encoding="utf-8")
    (folder / PROVENANCE).write_text(json.dumps(checkpoint.provenance, indent=1) + "\n", encoding="utf-8")


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint folder.

    Raises:
        InputError: a file is missing or unreadable, or the weights do not fit the configuration exactly.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    for name in (MODEL, CONFIG, TOKENIZER, TEMPLATES):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: not a checkpoint, {name} is missing")
    try:
        config = CheckpointConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{folder / CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    try:
        weights = load_file(folder / MODEL)
    except SafetensorError as error:
        raise InputError(f"{folder / MODEL}: not a readable safetensors file: {error}") from None
    try:
        model = build_agvas(config.model)
    except ValueError as error:
        raise InputError(f"{folder / CONFIG}: {error}") from None
    load_weights(model, weights, name=str(folder / MODEL))
    provenance = _text(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else "{}"
    try:
        made = json.loads(provenance)
    except ValueError as error:
        raise InputError(f"{folder / PROVENANCE}: not JSON: {error}") from None
    return Checkpoint(model, config, _text(folder / TOKENIZER), _text(folder / TEMPLATES), made)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def load_weights(model: torch.nn.Module, weights: Mapping[str, Tensor], *, name: str) -> None:
    """Load weights into a model; raises InputError on a missing, unexpected or misshapen tensor."""
    expected = {key: tuple(tensor.shape) for key, tensor in tensors_of(model).items()}
    for key in expected.keys() - weights.keys():
        raise InputError(f"{name}: tensor {key} is missing")
    for key, tensor in weights.items():
        if key not in expected:
            raise InputError(f"{name}: unexpected tensor {key}")
        if tuple(tensor.shape) != expected[key]:
            raise InputError(f"{name}: {key} has shape {tuple(tensor.shape)}, expected {expected[key]}")
    model.load_state_dict(dict(weights), strict=False)
