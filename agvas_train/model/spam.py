"""SPAM: semantic tokens gather what the pixel encoder saw (paper, section 3; method figure)."""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agvas_train.model.places import CODE, place_codes


class SPAM(nn.Module):
    """Multi-head cross-attention with queries f_s and keys and values from f_p.

    The paper's Linear_p on f_p followed by the key and value projections is one linear map, so it is written as one.
    No residual, no norm, and no position encoding but with `places` (ours): then queries, keys and values know where
    they are, and each semantic token begins by looking around its own place. SAM's features know it by themselves; what
    convolutions make of an image does not, and without it no description knows where a defect is (docs/experiments.md).
    Places are those of each view: where a long frame is squeezed into one and padded in the other, they are not alike.

    Raises:
        ValueError: `embed_dim` is no multiple of `num_heads`, or a head is too narrow for a place's code.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, pixel_dim: int, places: bool = False) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(pixel_dim, embed_dim)
        self.v_proj = nn.Linear(pixel_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.q_place = _nearby(embed_dim, num_heads) if places else None
        self.k_place = _nearby(embed_dim, num_heads) if places else None
        self.v_place = nn.Linear(CODE, embed_dim, bias=False) if places else None

    def forward(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """f_s [B, N, d] and f_p [B, C, g, g] give f_align [B, N, d]; channels packed behind f_p are the decoder's."""
        pixels = pixel[:, : self.k_proj.in_features].flatten(2).transpose(1, 2)  # B, g*g, C
        q, k, v = self.q_proj(semantic), self.k_proj(pixels), self.v_proj(pixels)
        if self.q_place is not None and self.k_place is not None and self.v_place is not None:
            side = isqrt(semantic.shape[1])
            here = place_codes(side, side, semantic.device).to(q.dtype)
            there = place_codes(*pixel.shape[-2:], pixel.device).to(q.dtype)
            q, k, v = q + self.q_place(here), k + self.k_place(there), v + self.v_place(there)
        attended = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v))
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.num_heads, -1)).transpose(1, 2)  # B, heads, length, d/heads


def _nearby(width: int, heads: int) -> nn.Linear:
    """A map of places' codes into each head as they are, sized so that scores of codes are the codes' products."""
    head = width // heads
    if head < CODE:
        raise ValueError(f"heads of {head} are too narrow for places, expected {CODE} at least")
    layer = nn.Linear(CODE, width, bias=False)
    with torch.no_grad():
        layer.weight.copy_(head**0.25 * torch.eye(head, CODE).repeat(heads, 1))
    return layer
