"""Random weights for a full architecture: for speed, memory and parity work where no released weights can be had."""

from __future__ import annotations

from hashlib import sha256

import torch
from torch import Tensor, nn

from agvas_train.model import AGVAS, ModelConfig
from agvas_train.weights.load import build_empty, named_tensors
from agvas_train.weights.reader import LazyTensor, LazyTensors, in_memory

STD = 0.02
"""Of every matrix, bias and position embedding: what the backbones' own classes begin with."""
EMBEDDING_STD = 1.0
"""Of token embeddings with an output head of its own beside them. At 0.02 the image's tokens drown them: the states of
all places of a text would be alike, and no answer could be planted. Tied ones keep 0.02, for the head's sake."""
NEW_PARTS = ("spam.", "token_refiner.", "agmd.", "pixel_projection.")
"""What AG-VAS adds to its backbones; no released file holds them."""


def random_tensors(config: ModelConfig, seed: int, dtype: torch.dtype) -> LazyTensors:
    """Every tensor of a model at random, each drawn when it is read, from the seed and its own name."""
    model = build_empty(config)
    ones = scales(model)
    tensors: LazyTensors = {}
    for name, tensor in named_tensors(model).items():
        shape = tuple(tensor.shape)
        if name in ones:
            tensors[name] = LazyTensor(shape, dtype, lambda shape=shape: torch.ones(shape, dtype=dtype))  # type: ignore[misc]
        else:
            spread = std(name, config)
            draw = lambda key=f"{seed}/{name}", shape=shape, std=spread: _draw(key, shape, std, dtype)  # noqa: E731
            tensors[name] = LazyTensor(shape, dtype, draw)
    return {**tensors, **new_parts(config, seed)}


def new_parts(config: ModelConfig, seed: int) -> LazyTensors:
    """Fresh SPAM, Token Refiner, AGMD and pixel projection in float32, as their layers initialise themselves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_empty(config)
        for name, module in model.named_modules():
            if not is_new_part(name + "."):
                continue
            for leaf, parameter in module.named_parameters(recurse=False):
                fill = torch.ones if leaf == "weight" else torch.zeros  # norms; every other layer resets itself below
                setattr(module, leaf, nn.Parameter(fill(parameter.shape)))
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return in_memory({name: t.detach() for name, t in named_tensors(model).items() if is_new_part(name)})


def scales(model: AGVAS) -> set[str]:
    """Names of the weights that multiply channels and begin with one: of norms, layer scales, standardised kernels."""
    found = set()
    for name, module in model.named_modules():
        kind = type(module).__name__
        if "Norm" in kind:
            found.add(f"{name}.weight")
        elif kind == "StandardConv":
            found.add(f"{name}.gain")
        elif kind.endswith(("LayerScale", "Residual")):
            found.update(f"{name}.{leaf}" for leaf, _ in module.named_parameters(recurse=False))
    return found


def std(name: str, config: ModelConfig) -> float:
    """The standard deviation that a tensor, which is none of `scales`, is drawn with; its mean is 0."""
    if "language_model.embed_tokens" in name and not config.language["tie_word_embeddings"]:
        return EMBEDDING_STD
    if "language_model.layers" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
        # all layers together add to the stream no more than one would otherwise
        return STD / (2 * int(config.language["num_hidden_layers"])) ** 0.5
    return STD


def _draw(key: str, shape: tuple[int, ...], std: float, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(sha256(key.encode()).digest()[:8], "little") >> 1)
    return torch.empty(shape, dtype=dtype).normal_(0, std, generator=generator)


def is_new_part(name: str) -> bool:
    """Whether a tensor belongs to what AG-VAS adds to its backbones."""
    return name.startswith(NEW_PARTS)
