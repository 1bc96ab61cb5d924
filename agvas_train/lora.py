"""LoRA on the language model, and merging it away (paper, section B.2: rank 16; trained beside it: SPAM, Token Refiner,
AGMD, token embeddings and output head).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import LoraConfig, LoraModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from agvas_runtime.errors import InputError
from agvas_runtime.hashing import sha256_file
from agvas_train.checkpoint import MODEL, Checkpoint, load_checkpoint, write_config_files
from agvas_train.model import AGVAS

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
    """Of its model.safetensors."""


def adapter_config(base: Path, rank: int) -> AdapterConfig:
    """The configuration of fresh adapters on a base checkpoint."""
    if not (base / MODEL).is_file():
        raise InputError(f"{base}: not a checkpoint, {MODEL} is missing")
    return AdapterConfig(rank=rank, base=str(base.resolve()), base_sha256=sha256_file(base / MODEL))


def add_adapters(model: AGVAS, config: AdapterConfig) -> LoraModel:
    """Put LoRA adapters into the language model (in place) and leave only the paper's parts trainable."""
    model.requires_grad_(False)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=_TARGETS)
    adapted = LoraModel(model.llava, lora, "default")
    trained: list[nn.Module] = [model.spam, model.token_refiner, model.agmd]
    # a tied output head is the same parameter and stays tied
    trained += [model.llava.get_input_embeddings(), model.llava.get_output_embeddings()]
    for module in trained:
        module.requires_grad_(True)
    return adapted


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, tied ones once."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def write_adapter_files(checkpoint: Checkpoint, config: AdapterConfig, folder: Path) -> None:
    """Write what was trained beside a base: adapter.safetensors, adapter.json and the checkpoint's small files."""
    save_file(trained_tensors(checkpoint.model), folder / ADAPTER)
    (folder / ADAPTER_CONFIG).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_config_files(checkpoint, folder)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The adapter.json of a folder; raises InputError when it is no adapter folder."""
    path = folder / ADAPTER_CONFIG
    if not path.is_file() or not (folder / ADAPTER).is_file():
        raise InputError(f"{folder}: not an adapter folder, expected {ADAPTER_CONFIG} and {ADAPTER}")
    try:
        return AdapterConfig.model_validate_json(path.read_text(encoding="utf-8"))
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
    base = base or Path(config.base)
    if not (base / MODEL).is_file():
        raise InputError(f"{base}: the adapters' base checkpoint is not there; name its folder with --base")
    found = sha256_file(base / MODEL)
    if found != config.base_sha256:
        raise InputError(f"{base}: sha256 {found[:12]}, but the adapters were trained on {config.base_sha256[:12]}")
    checkpoint = load_checkpoint(base)
    adapted = add_adapters(checkpoint.model, config)
    load_trained(checkpoint.model, folder / ADAPTER)
    checkpoint.provenance = {
        **json.loads((folder / "provenance.json").read_text(encoding="utf-8")),
        "base": {"sha256": config.base_sha256, "provenance": checkpoint.provenance},
    }
    return checkpoint, adapted


def load_trained(model: nn.Module, path: Path) -> None:
    """Load an adapter.safetensors into a model with adapters."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    expected = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())[0]
        raise InputError(f"{path}: tensor {odd} is missing or unexpected")
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[name])


def merge(folder: Path, base: Path | None = None) -> Checkpoint:
    """The checkpoint with its adapters merged into the weights: no output changes but by rounding."""
    checkpoint, adapted = load_adapted(folder, base)
    checkpoint.model.llava = adapted.merge_and_unload()
    checkpoint.model.requires_grad_(False)
    checkpoint.provenance["merged"] = True
    return checkpoint
