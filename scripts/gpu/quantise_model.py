"""The model's parts in fewer bits, and the language model back in 16.

Weights of the language model are drawn anew, so that no more than one matrix of it is there in two kinds at once. A
kind is one of `quantised.KINDS`; any other name means plain layers in the dtype that the weights are drawn in.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from common import Weights
from quantised import KINDS, quantise
from single_pass import Language
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
    """The language model's layers with matrices of a kind, but for its output head; the library's layers are given up.

    A matrix that is replaced goes before the new one is drawn.
    """
    model.llava.model.language_model.layers = nn.ModuleList()
    for index, block in enumerate(language.blocks):
        for matrix in MATRICES:
            setattr(block, matrix, nn.Identity())
            setattr(block, matrix, in_kind(kind, drawn(weights, index, matrix)))


def head_in(kind: str, model: AGVAS, language: Language, weight: Tensor) -> None:
    """The output head, from its 16-bit weight [vocabulary, d] on the device it is to be on; the old one goes first."""
    language.head = model.llava.lm_head = nn.Identity()
    language.head = model.llava.lm_head = in_kind(kind, SimpleNamespace(weight=weight, bias=None))


def rest_in(kind: str, model: AGVAS, encoders: Encoders) -> None:
    """Encoders, projector, SPAM and Token Refiner with linear layers of a kind in fewer bits; there is no way back."""
    encoders.tower.encoder.layers = nn.ModuleList()
    quantise(encoders.layers, kind)
    if isinstance(encoders.pixel, Sam):
        quantise(encoders.pixel.layers, kind)
    for part in (encoders.projector, model.spam, model.token_refiner):
        quantise(part, kind)


def in_kind(kind: str, made: SimpleNamespace) -> nn.Module:
    """A linear layer of a kind from its weight [N, K] and bias [N] or None."""
    if kind in KINDS:
        return KINDS[kind](made)
    with torch.device("meta"):
        linear = nn.Linear(made.weight.shape[1], made.weight.shape[0], bias=made.bias is not None)
    linear.weight = nn.Parameter(made.weight, requires_grad=False)
    if made.bias is not None:
        linear.bias = nn.Parameter(made.bias, requires_grad=False)
    return linear
