"""LoRA on the language model, and merging it away (paper, section B.2: rank 16; trained beside it: SPAM, Token Refiner,
AGMD, token embeddings and output head; where the pixel encoder has a projection, it is trained too).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, LoraModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import (
    PROVENANCE,
    Checkpoint,
    CheckpointInfo,
    load_checkpoint,
    read_info,
    write_info_files,
)
from agvas_train.model import AGVAS
from agvas_train.weights.load import check_tensors
from agvas_train.weights.reader import LazyTensor, LazyTensors, open_weights
from agvas_train.weights.store import has_weights, read_weights, save_tensors, weights_sha256

ADAPTER, ADAPTER_CONFIG = "adapter.safetensors", "adapter.json"

_TARGETS = r"model\.language_model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj"
"""Attention of the language model alone: the semantic encoder has projections of the same names."""


class AdapterConfig(BaseModel):
    """How the adapters were made and what they belong to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(gt=0)
    alpha: int = 32
    dropout: float = 0.05
    base: str
    """Folder of the base checkpoint."""
    base_sha256: str
    """Of its weights, see `weights_sha256`."""
    base_dtype: Literal["float32", "bfloat16"] | None = None
    """What its frozen weights were rounded to while the adapters were trained; None: what it says itself."""

    @property
    def dtype(self) -> torch.dtype | None:
        """`base_dtype` for torch."""
        return getattr(torch, self.base_dtype) if self.base_dtype else None


def adapter_config(
    base: Path,
    rank: int,
    *,
    alpha: int = 32,
    dropout: float = 0.05,
    base_dtype: Literal["float32", "bfloat16"] | None = None,
) -> AdapterConfig:
    """The configuration of fresh adapters on a base checkpoint."""
    if not has_weights(base):
        raise InputError(f"{base}: not a checkpoint, it holds no weights")
    return AdapterConfig(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        base=str(base.resolve()),
        base_sha256=weights_sha256(base),
        base_dtype=base_dtype,
    )


def add_adapters(model: AGVAS, config: AdapterConfig) -> LoraModel:
    """Put LoRA adapters into the language model (in place) and leave only the paper's parts trainable, in float32."""
    model.requires_grad_(False)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=_TARGETS)
    adapted = LoraModel(model.llava, lora, "default")
    trained: list[nn.Module] = [model.spam, model.token_refiner, model.agmd, model.pixel_projection]
    # a tied output head is the same parameter and stays tied
    trained += [model.llava.get_input_embeddings(), model.llava.get_output_embeddings()]
    for module in trained:
        module.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small steps would vanish in bfloat16
    return adapted


def write_adapter_files(
    checkpoint: CheckpointInfo, values: dict[str, Tensor], config: AdapterConfig, folder: Path
) -> None:
    """Write what was trained beside a base: adapter.safetensors, adapter.json and the checkpoint's small files.

    Args:
        values: the trained parameters by name, tied ones once, float32.
    """
    save_tensors(values, folder / ADAPTER)
    (folder / ADAPTER_CONFIG).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_info_files(checkpoint, folder)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The adapter.json of a folder; raises InputError when it is no adapter folder."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file() or not (folder / ADAPTER).is_file():
        raise InputError(f"{folder}: not an adapter folder, expected {ADAPTER_CONFIG} and {ADAPTER}")
    try:
        return AdapterConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def load_adapted(folder: Path, base: Path | None = None) -> tuple[Checkpoint, LoraModel]:
    """The base checkpoint with a folder's adapters and trained parts in it, not yet merged.

    Args:
        base: the base's folder, when it is not where training found it.

    Raises:
        InputError: the base is missing, or is not the one the adapters were trained on.
    """
    config = read_adapter_config(folder)
    checkpoint = load_checkpoint(_base_of(config, base), dtype=config.dtype)
    adapted = add_adapters(checkpoint.model, config)
    load_trained(checkpoint.model, folder / ADAPTER)
    return checkpoint, adapted


def _base_of(config: AdapterConfig, base: Path | None) -> Path:
    base = base or Path(config.base)
    if not has_weights(base):
        raise InputError(f"{base}: the adapters' base checkpoint is not there; name its folder with --base")
    found = weights_sha256(base)
    if found != config.base_sha256:
        raise InputError(f"{base}: sha256 {found[:12]}, but the adapters were trained on {config.base_sha256[:12]}")
    return base


def load_trained(model: nn.Module, path: Path) -> None:
    """Load an adapter.safetensors into a model with adapters."""
    tensors = open_weights(path)
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())[0]
        raise InputError(f"{path}: tensor {odd} is {'missing' if odd in expected else 'unexpected'}")
    with torch.no_grad():
        for name, parameter in expected.items():
            if tensors[name].shape != tuple(parameter.shape):
                raise InputError(f"{path}: {name} has shape {tensors[name].shape}, expected {tuple(parameter.shape)}")
            parameter.copy_(tensors[name].read())


def merge(folder: Path, base: Path | None = None) -> tuple[CheckpointInfo, LazyTensors]:
    """A checkpoint with its adapters merged into the weights: no output changes but by rounding.

    The tensors are computed one by one as they are read, so that the whole model is never in memory.

    Raises:
        InputError: the base is missing or another one, or the adapters do not fit it.
    """
    config = read_adapter_config(folder)
    root = _base_of(config, base)
    info, tensors = read_info(root), read_weights(root)
    made = _training_record(folder)
    trained = open_weights(folder / ADAPTER)
    scale = config.alpha / config.rank
    merged = dict(tensors)
    used: set[str] = set()
    for name, tensor in tensors.items():
        if name in trained:
            merged[name] = replace(trained[name], origin=None)
            used.add(name)
            continue
        stem = name.removesuffix(".weight")
        down, up = f"{stem}.lora_A.default.weight", f"{stem}.lora_B.default.weight"
        if down in trained and up in trained:
            merged[name] = _with_adapter(tensor, trained[down], trained[up], scale, config.dtype or info.dtype)
            used.update((down, up))
    if left := sorted(trained.keys() - used):
        raise InputError(f"{folder / ADAPTER}: tensor {left[0]} belongs to nothing in {root}")
    check_tensors(info.config.model, merged, str(folder))
    provenance = {**made, "base": {"sha256": config.base_sha256, "provenance": info.provenance}, "merged": True}
    return replace(info, provenance=provenance), merged


def _training_record(folder: Path) -> dict[str, object]:
    """What an adapter folder says of its training."""
    path = folder / PROVENANCE
    try:
        made: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if not isinstance(made, dict):
        raise InputError(f"{path}: found {type(made).__name__}, expected an object")
    return made


def _with_adapter(weight: LazyTensor, down: LazyTensor, up: LazyTensor, scale: float, dtype: torch.dtype) -> LazyTensor:
    """W + scale * B A in float32, W as training saw it; whoever writes it rounds it, once."""

    def read() -> Tensor:
        delta = up.read().float() @ down.read().float()
        return weight.read().to(dtype).float() + scale * delta

    return LazyTensor(weight.shape, torch.float32, read)
