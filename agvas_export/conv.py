"""The embedded default's convolutions in the form that compiles well: kernels as they come out of standardisation."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from agvas_train.model.conv_encoder import ConvEncoder, StandardConv

Module = TypeVar("Module", bound=nn.Module)


def with_plain_kernels(module: Module) -> Module:
    """A copy of a module whose standardised convolutions are plain ones; it computes the same.

    It holds kernels of its own, which do not follow the module's weights, so it is for export only.
    """
    copy = deepcopy(module)
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            if isinstance(child, StandardConv):
                setattr(parent, name, _plain(child))
    return copy


class FoldedConvEncoder(nn.Module):
    """A `ConvEncoder` with plain convolutions: pixels [B, 3, P, P] -> map [B, C or 4 C, g, g], the same numbers."""

    def __init__(self, encoder: ConvEncoder) -> None:
        super().__init__()
        self.encoder = with_plain_kernels(encoder)

    def forward(self, pixels: Tensor) -> Tensor:
        """The encoder's features."""
        features: Tensor = self.encoder(pixels).last_hidden_state
        return features


@torch.no_grad()
def _plain(conv: StandardConv) -> nn.Conv2d:
    outputs, inputs, side, _ = conv.shape
    plain = nn.Conv2d(inputs, outputs, side, conv.stride, conv.padding)
    plain.weight.copy_(conv.kernel())
    plain.bias = conv.bias
    return plain.requires_grad_(False)
