"""Both encoders and SPAM, written for a GPU: fused projections, the fastest attention, shared compiled blocks.

The same functions with the same weights. SAM is `agvas_export.sam`'s folded form, so that its relative positions are a
part of queries and keys; patches are cut by a matrix product instead of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from attention import attend, fastest_for
from single_pass import fused
from timing import Compiled
from torch import Tensor, nn

from agvas_export.graphs import PixelEncoderGraph
from agvas_export.sam import FoldedLayer, neck
from agvas_train.model import AGVAS, ModelConfig


def patches(conv: nn.Conv2d, pixels: Tensor) -> Tensor:
    """A convolution whose kernels do not overlap, [B, 3, P, P] to [B, g, g, D]; a rest at the edges is left out."""
    side = conv.kernel_size[0]
    grid = pixels.shape[-1] // side
    cut = pixels[..., : grid * side, : grid * side].to(conv.weight.dtype)
    cells = cut.unflatten(3, (grid, side)).unflatten(2, (grid, side)).permute(0, 2, 4, 1, 3, 5).flatten(3)
    return F.linear(cells, conv.weight.flatten(1), conv.bias)


class SiglipBlock(nn.Module):
    """One layer of SigLIP."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm1, self.norm2 = layer.layer_norm1, layer.layer_norm2
        self.qkv = fused(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.fc1, self.fc2 = attention.out_proj, layer.mlp.fc1, layer.mlp.fc2
        self.act: Callable[[Tensor], Tensor] = layer.mlp.activation_fn
        self.heads: int = attention.num_heads

    def forward(self, x: Tensor, kernel: str) -> Tensor:
        """[B, N, D] to the same."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = attend(q, k, v, kernel, scale=q.shape[-1] ** -0.5)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class SamLayer(FoldedLayer):
    """One layer of SAM, folded, with attention by a named kernel."""

    kernel = "cpu"

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention over all places of [N, s, s, 3D]: [N, s, s, D]."""
        side, width = qkv.shape[1], qkv.shape[-1] // 3
        parts = qkv.reshape(-1, side * side, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)  # N, heads, s * s, d
        grid = q.unflatten(2, (side, side))
        rows = torch.einsum("nhyxd,ydk->nhyxk", grid, self.of_rows)
        columns = torch.einsum("nhyxd,xdk->nhyxk", grid, self.of_columns)
        q = torch.cat((q * self.scale, rows.flatten(2, 3), columns.flatten(2, 3)), dim=-1)
        k = torch.cat((k, self.places.expand(k.shape[0], self.heads, -1, -1)), dim=-1)
        out = attend(q, k, v, self.kernel)
        return out.transpose(1, 2).reshape(-1, side, side, width)


class Sam(nn.Module):
    """Pixel view [B, 3, P, P] to f_p [B, C, g, g]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.vision, self.projection = model.pixel_encoder, model.pixel_projection
        weight = next(self.vision.parameters())
        self.layers = nn.ModuleList(SamLayer(layer) for layer in self.vision.layers)
        for conv in (self.vision.neck.conv1, self.vision.neck.conv2):
            last = conv.weight.detach().contiguous(memory_format=torch.channels_last)
            conv.weight = nn.Parameter(last, requires_grad=False)
        grid = self.vision.config.image_size // self.vision.config.patch_size
        for layer in self.layers:
            side = layer.window or grid
            across = -(-grid // side)
            layer.kernel = self._fastest(layer, side, across * across, weight)
        self._layer, self._patches, self._behind = Compiled(SamLayer.forward), Compiled(patches), Compiled(neck)

    def _fastest(self, layer: SamLayer, side: int, windows: int, like: Tensor) -> str:
        width, extra = layer.of_rows.shape[1], layer.places.shape[-1]
        q = (windows, layer.heads, side * side, width + extra)
        return fastest_for(q, q, (*q[:3], width), like)

    def forward(self, pixels: Tensor) -> Tensor:
        """Patches, layers, neck, projection."""
        x = self._patches(self.vision.patch_embed.projection, pixels)
        if self.vision.pos_embed is not None:
            x = x + self.vision.pos_embed
        for layer in self.layers:
            x = self._layer(layer, x)
        return self.projection(self._behind(self.vision.neck, x))


class Encoders(nn.Module):
    """The model's encoders and SPAM in their fast forms."""

    def __init__(self, model: AGVAS, config: ModelConfig) -> None:
        super().__init__()
        tower = model.llava.model.vision_tower
        self.tower = getattr(tower, "vision_model", tower)
        self.projector = model.llava.model.multi_modal_projector
        self.layers = nn.ModuleList(SiglipBlock(layer) for layer in self.tower.encoder.layers)
        sam = config.pixel_encoder in ("sam", "sam-ft")
        self.pixel = Sam(model) if sam else _Cast(PixelEncoderGraph(model, config.pixel_encoder), model)
        self.model = model
        shape = (1, self.layers[0].heads, config.semantic_tokens, int(config.semantic["hidden_size"]))
        shape = (*shape[:3], shape[3] // shape[1])
        self.kernel = fastest_for(shape, shape, shape, self.layers[0].qkv.weight)
        self._block, self._spam = Compiled(SiglipBlock.forward), Compiled(_spam)

    def semantic(self, pixels: Tensor) -> Tensor:
        """Semantic view [B, 3, S, S] to f_s [B, N, d]. In 16 bits not compiled: as it is, it is faster in a graph."""
        embeddings = self.tower.embeddings
        x = patches(embeddings.patch_embedding, pixels).flatten(1, 2)
        x = x + embeddings.position_embedding.weight
        for layer in self.layers:
            x = layer(x, self.kernel) if isinstance(layer.qkv, nn.Linear) else self._block(layer, x, self.kernel)
        return self.projector(x)

    def visual(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """f_s and f_p to the visual tokens [B, V, d]."""
        return self._spam(self.model, semantic, pixel)


class _Cast(nn.Module):
    """An encoder that takes float32 views whatever its weights are."""

    def __init__(self, graph: nn.Module, model: AGVAS) -> None:
        super().__init__()
        self.graph, self.dtype = graph, next(model.pixel_encoder.parameters()).dtype

    def forward(self, pixels: Tensor) -> Tensor:
        return self.graph(pixels.to(self.dtype))


def _spam(model: AGVAS, semantic: Tensor, pixel: Tensor) -> Tensor:
    return model.visual_tokens(semantic, pixel)
