"""From lazy tensors to a model without a second copy: built without memory, then filled tensor by tensor."""

from __future__ import annotations

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from agvas_runtime.errors import InputError
from agvas_train.model import AGVAS, ModelConfig, build_agvas
from agvas_train.weights.reader import LazyTensors
from agvas_train.weights.store import cast


def build_empty(config: ModelConfig) -> AGVAS:
    """A model whose parameters have shapes but no memory; its buffers are real, its tied head is tied."""
    with init_empty_weights(include_buffers=False):
        model = build_agvas(config)
    _tie(model, config)
    return model


def _tie(model: AGVAS, config: ModelConfig) -> None:
    if config.language["tie_word_embeddings"]:
        model.llava.lm_head.weight = model.llava.get_input_embeddings().weight


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and stored buffers by name, tied ones once: what a checkpoint holds."""
    parameters = dict(model.named_parameters())
    twice = dict(model.named_parameters(remove_duplicate=False)).keys() - parameters.keys()
    return {name: parameters.get(name, tensor) for name, tensor in model.state_dict().items() if name not in twice}


def check_tensors(config: ModelConfig, tensors: LazyTensors, name: str) -> AGVAS:
    """The empty model of a configuration; raises InputError unless the tensors are exactly its own."""
    model = build_empty(config)
    expected = {key: tuple(tensor.shape) for key, tensor in named_tensors(model).items()}
    preset = f"preset {config.preset}"
    if missing := sorted(expected.keys() - tensors.keys()):
        raise InputError(f"{name}: tensor {_first(missing)} is missing, which {preset} expects")
    if odd := sorted(tensors.keys() - expected.keys()):
        raise InputError(f"{name}: unexpected tensor {_first(odd)}, which {preset} does not have")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key]:
            raise InputError(f"{name}: {key} has shape {tensor.shape}, {preset} expects {expected[key]}")
    return model


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"


def materialise(
    config: ModelConfig,
    tensors: LazyTensors,
    *,
    name: str,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> AGVAS:
    """A model of these weights, in evaluation mode; each tensor is read, cast and moved by itself.

    Raises:
        InputError: a tensor is missing, unexpected or misshapen.
    """
    model = check_tensors(config, tensors, name)
    for module in model.modules():  # parameters have no memory yet, so the model as a whole cannot move
        for leaf, buffer in module._buffers.items():
            module._buffers[leaf] = buffer.to(device) if buffer is not None else None
    for key, tensor in cast(tensors, dtype).items():
        _assign(model, key, tensor.read().to(device))
    _tie(model, config)
    return model.eval()


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
