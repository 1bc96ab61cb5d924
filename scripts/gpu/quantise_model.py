"""The model's parts in fewer bits.

Weights of the language model are drawn anew, so that no more than one matrix of it is ever there in 16 bits.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from common import Weights
from quantised import KINDS, quantise
from single_pass import Block, Language
from torch import Tensor, nn
from vision import Encoders, Sam

from agvas_train.model import AGVAS

MATRICES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""A block's matrices, and the library's that make each."""


def drawn(weights: Weights, layer: int, matrix: str) -> SimpleNamespace:
    """A block's matrix in 16 bits, with its bias or None."""
    names = [f"llava.model.language_model.layers.{layer}.{name}" for name in MATRICES[matrix]]
    bias = None
    if f"{names[0]}.bias" in weights.shapes:
        bias = torch.cat([weights.draw(f"{name}.bias") for name in names])
    return SimpleNamespace(weight=torch.cat([weights.draw(f"{name}.weight") for name in names]), bias=bias)


def language_in(kind: str, model: AGVAS, language: Language, weights: Weights) -> None:
    """The language model's layers with matrices of a kind; the library's own layers are given up."""
    model.llava.model.language_model.layers = nn.ModuleList()
    for index, block in enumerate(language.blocks):
        block_in(kind, block, weights, index)


def block_in(kind: str, block: Block, weights: Weights, index: int) -> None:
    """One layer; its old matrices go first."""
    for matrix in MATRICES:
        setattr(block, matrix, nn.Identity())
        setattr(block, matrix, KINDS[kind](drawn(weights, index, matrix)))


def language_again(model: AGVAS, language: Language, weights: Weights, head: Tensor) -> None:
    """The language model's layers in 16 bits once more, and its output head [vocabulary, d], from wherever it was."""
    for index, block in enumerate(language.blocks):
        for matrix in MATRICES:
            setattr(block, matrix, nn.Identity())
            setattr(block, matrix, _plain(drawn(weights, index, matrix)))
    language.head = model.llava.lm_head = nn.Identity()
    language.head = model.llava.lm_head = _plain(SimpleNamespace(weight=head.to(weights.device), bias=None))


def _plain(made: SimpleNamespace) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(made.weight.shape[1], made.weight.shape[0], bias=made.bias is not None)
    linear.weight = nn.Parameter(made.weight, requires_grad=False)
    if made.bias is not None:
        linear.bias = nn.Parameter(made.bias, requires_grad=False)
    return linear


def rest_in(kind: str, model: AGVAS, encoders: Encoders, language: Language) -> int:
    """Encoders, projector, SPAM, Token Refiner and output head with linear layers of a kind; returns how many."""
    encoders.tower.encoder.layers = nn.ModuleList()
    count = quantise(encoders.layers, kind)
    if isinstance(encoders.pixel, Sam):
        count += quantise(encoders.pixel.layers, kind)
    for part in (encoders.projector, model.spam, model.token_refiner):
        count += quantise(part, kind)
    head = KINDS[kind](language.head)
    language.head = head
    model.llava.lm_head = head
    return count + 1
