"""The two-way transformer of SAM's mask decoder, which AGMD adapts (paper, Figure A.3).

With the same weights it computes what segment-anything's own computes; parameter names are theirs, so its weights load.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention whose inner width is `embedding_dim / downsample_rate`."""

    def __init__(self, *, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        inner = embedding_dim // downsample_rate
        if inner % num_heads:
            raise ValueError(f"attention width {inner} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embedding_dim, inner)
        self.k_proj = nn.Linear(embedding_dim, inner)
        self.v_proj = nn.Linear(embedding_dim, inner)
        self.out_proj = nn.Linear(inner, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Queries [B, L, C], keys and values [B, M, C] give [B, L, C]; the bias [B, 1, 1, M] adds to the scores."""
        if bias is not None:
            bias = bias.expand(-1, -1, q.shape[1], -1)
        q, k, v = self._heads(self.q_proj(q)), self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # B, heads, L, inner/heads
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.num_heads, -1)).transpose(1, 2)


class MLPBlock(nn.Module):
    """Two linear layers with ReLU between."""

    def __init__(self, *, embedding_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] to [B, L, C]."""
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves, to the pixels, pass an MLP; then the pixels attend to the tokens."""

    def __init__(
        self, *, embedding_dim: int, num_heads: int, mlp_dim: int, downsample_rate: int, first: bool = False
    ) -> None:
        super().__init__()
        cross = {"embedding_dim": embedding_dim, "num_heads": num_heads, "downsample_rate": downsample_rate}
        self.self_attn = Attention(embedding_dim=embedding_dim, num_heads=num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(**cross)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim=embedding_dim, mlp_dim=mlp_dim)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(**cross)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.first = first

    def forward(
        self, tokens: Tensor, pixels: Tensor, token_pe: Tensor, pixel_pe: Tensor, token_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, C] and pixels [B, M, C], both updated; the position encodings have the same shapes.

        The bias [B, 1, 1, L] is added to every score of a token as a key: a huge negative one hides it.
        """
        if self.first:  # the first block's tokens are their own position encoding: no sum, no residual
            tokens = self.self_attn(tokens, tokens, tokens, token_bias)
        else:
            q = tokens + token_pe
            tokens = tokens + self.self_attn(q, q, tokens, token_bias)
        tokens = self.norm1(tokens)
        located = pixels + pixel_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, located, pixels))
        tokens = self.norm3(tokens + self.mlp(tokens))
        pixels = self.norm4(pixels + self.cross_attn_image_to_token(located, tokens + token_pe, tokens, token_bias))
        return tokens, pixels


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last attention from tokens to pixels."""

    def __init__(
        self, *, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int, attention_downsample_rate: int = 2
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim=embedding_dim,
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                downsample_rate=attention_downsample_rate,
                first=index == 0,
            )
            for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(
            embedding_dim=embedding_dim, num_heads=num_heads, downsample_rate=attention_downsample_rate
        )
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(
        self, pixels: Tensor, pixel_pe: Tensor, tokens: Tensor, token_bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pixels [B, C, g, g], their position encoding [1, C, g, g] (cast to the pixels' dtype), tokens [B, L, C].

        The bias [B, 1, 1, L] is added to every score of a token as a key.

        Returns the updated tokens [B, L, C] and pixels [B, g*g, C].
        """
        flat = pixels.flatten(2).transpose(1, 2)
        flat_pe = pixel_pe.flatten(2).transpose(1, 2).to(flat.dtype)
        token_pe = tokens
        for layer in self.layers:
            tokens, flat = layer(tokens, flat, token_pe, flat_pe, token_bias)
        attended = self.final_attn_token_to_image(tokens + token_pe, flat + flat_pe, flat)
        return self.norm_final_attn(tokens + attended), flat


class RandomPositionEncoding(nn.Module):
    """SAM's dense position encoding: sines and cosines of random spatial frequencies.

    In bfloat16 its phases would be off by hundredths of a radian, so the matrix stays float32 whatever the model
    becomes: `.to(bfloat16)` only moves it, and checkpoints must keep `gaussian_matrix` in float32.
    """

    gaussian_matrix: Tensor

    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.register_buffer("gaussian_matrix", torch.randn(2, features))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RandomPositionEncoding:
        exact = self.gaussian_matrix
        super()._apply(fn, recurse)
        if self.gaussian_matrix.dtype != exact.dtype:
            self.gaussian_matrix = exact.to(self.gaussian_matrix.device)
        return self

    def forward(self, grid: int) -> Tensor:
        """The encoding of a grid of `grid` x `grid` cells, float32 [1, 2 * features, grid, grid]."""
        of_x, of_y = self.gaussian_matrix.float()
        centres = ((torch.arange(grid, device=of_x.device, dtype=torch.float32) + 0.5) / grid * 2 - 1)[:, None]
        # products one by one: autocast would round a matrix product to 16 bits
        angles = 2 * torch.pi * ((centres * of_x)[None] + (centres * of_y)[:, None])  # grid (y), grid (x), features
        return torch.cat((angles.sin(), angles.cos()), dim=-1).permute(2, 0, 1)[None]
