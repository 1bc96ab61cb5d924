"""SPAM: semantic tokens gather what the pixel encoder saw (paper, section 3; method figure)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SPAM(nn.Module):
    """Multi-head cross-attention with queries f_s and keys and values from f_p.

    The paper's Linear_p on f_p followed by the key and value projections is one linear map, so it is written as one.
    No residual, no norm, no position encoding.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, pixel_dim: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(pixel_dim, embed_dim)
        self.v_proj = nn.Linear(pixel_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """f_s [B, N, d] and f_p [B, C, g, g] give f_align [B, N, d]; channels packed behind f_p are the decoder's."""
        pixels = pixel[:, : self.k_proj.in_features].flatten(2).transpose(1, 2)  # B, g*g, C
        q, k, v = self._heads(self.q_proj(semantic)), self._heads(self.k_proj(pixels)), self._heads(self.v_proj(pixels))
        attended = F.scaled_dot_product_attention(q, k, v)  # B, heads, N, d/heads
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.num_heads, -1)).transpose(1, 2)  # B, heads, length, d/heads
