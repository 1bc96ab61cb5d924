"""SAM's encoder in the form that compiles well: the same numbers from the same weights, in fewer operations.

Two exact changes. The relative position bias becomes part of queries and keys, so that attention is plain attention and
no bias of tokens x tokens is ever built. And windows are padded behind the projection to queries, keys and values, not
before it: what the library computes for a row of zeros is the projection's bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

HEAD_MULTIPLE = 8
"""Fused attention kernels want widths that are multiples of this."""


class FoldedSamEncoder(nn.Module):
    """A `SamVisionModel` of transformers, folded: pixels [B, 3, P, P] -> map [B, W, g, g].

    It shares the library model's weights; slower than the library in eager PyTorch, so it is for export only.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.vision = getattr(encoder, "vision_encoder", encoder)
        self.layers = nn.ModuleList(FoldedLayer(layer) for layer in self.vision.layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Patches, layers, neck."""
        x = self.vision.patch_embed(pixels)  # B, g, g, D
        if self.vision.pos_embed is not None:
            x = x + self.vision.pos_embed
        for layer in self.layers:
            x = layer(x)
        return neck(self.vision.neck, x)


class FoldedLayer(nn.Module):
    """One of the encoder's layers, folded: [B, g, g, D] to the same, in the dtype of the library layer's weights."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.window: int = layer.window_size
        attention = layer.attn
        self.heads: int = attention.num_attention_heads
        self.scale: float = attention.scale
        self.relative = bool(attention.use_rel_pos)
        if not self.relative:
            return
        side = (attention.rel_pos_h.shape[0] + 1) // 2
        width = attention.qkv.in_features // self.heads
        pad = -(width + 2 * side) % HEAD_MULTIPLE
        with torch.no_grad():
            rows = attention.get_rel_pos(side, side, attention.rel_pos_h).transpose(1, 2)  # side, d, side
            columns = attention.get_rel_pos(side, side, attention.rel_pos_w).transpose(1, 2)
            places = torch.eye(side, device=rows.device, dtype=rows.dtype)
            ones = torch.cat((places.repeat_interleave(side, 0), places.repeat(side, 1)), dim=1)
            self.register_buffer("of_rows", rows.contiguous(), persistent=False)
            self.register_buffer("of_columns", F.pad(columns, (0, pad)).contiguous(), persistent=False)
            # 1, 1, side * side, 2 * side + pad
            self.register_buffer("places", F.pad(ones, (0, pad))[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, g, g, D] to the same."""
        grid = x.shape[1]
        qkv = self.layer.attn.qkv(self.layer.layer_norm1(x))  # B, g, g, 3D
        attended = self._windowed(qkv, grid) if self.window else self._attend(qkv)
        x = x + self.layer.attn.proj(attended)
        return x + self.layer.mlp(self.layer.layer_norm2(x))

    def _windowed(self, qkv: Tensor, grid: int) -> Tensor:
        """Attention within windows of [B, g, g, 3D]: [B, g, g, D]."""
        size, pad = self.window, -grid % self.window
        count, width = (grid + pad) // size, qkv.shape[-1]
        if pad:
            row = self.layer.attn.qkv.bias  # what a row of zeros gives
            qkv = torch.cat((qkv, row.expand(qkv.shape[0], grid, pad, width)), dim=2)
            qkv = torch.cat((qkv, row.expand(qkv.shape[0], pad, grid + pad, width)), dim=1)
        windows = qkv.reshape(-1, count, size, count, size, width).transpose(2, 3).reshape(-1, size, size, width)
        out = self._attend(windows).reshape(-1, count, count, size, size, width // 3).transpose(2, 3)
        return out.reshape(-1, grid + pad, grid + pad, width // 3)[:, :grid, :grid]

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention over all places of [N, s, s, 3D]: [N, s, s, D]."""
        side, width = qkv.shape[1], qkv.shape[-1] // 3
        parts = qkv.reshape(-1, side * side, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)  # N, heads, s * s, d
        if self.relative:
            grid = q.unflatten(2, (side, side))  # N, heads, s, s, d
            rows = grid @ self.of_rows[None, None]
            columns = (grid.transpose(2, 3) @ self.of_columns[None, None]).transpose(2, 3)
            q = torch.cat((q * self.scale, rows.flatten(2, 3), columns.flatten(2, 3)), dim=-1)
            k = torch.cat((k, self.places.expand(k.shape[0], self.heads, -1, -1)), dim=-1)
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0 if self.relative else self.scale)
        return out.transpose(1, 2).reshape(-1, side, side, width)


def neck(module: nn.Module, x: Tensor) -> Tensor:
    """SAM's neck on [B, g, g, D] with its norms over the channels where they lie last: [B, W, g, g]."""
    x = module.conv1(x.permute(0, 3, 1, 2))
    x = module.conv2(_channel_norm(module.layer_norm1, x))
    return _channel_norm(module.layer_norm2, x)


def _channel_norm(norm: nn.Module, x: Tensor) -> Tensor:
    x = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), norm.weight, norm.bias, norm.eps)
    return x.permute(0, 3, 1, 2)
