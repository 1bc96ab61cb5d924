"""The embedded default's pixel encoder in the form that compiles well: kernels as they come out of standardisation."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from agvas_train.model.conv_encoder import ConvEncoder, StandardConv


class FoldedConvEncoder(nn.Module):
    """A `ConvEncoder` with plain convolutions: pixels [B, 3, P, P] -> map [B, C, g, g], the same numbers.

    It holds kernels of its own, which do not follow the encoder's weights, so it is for export only.
    """

    def __init__(self, encoder: ConvEncoder) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder)
        for parent in list(self.encoder.modules()):
            for name, child in parent.named_children():
                if isinstance(child, StandardConv):
                    setattr(parent, name, _plain(child))

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
