"""AGMD, the Anchor-Guided Mask Decoder (paper, section B.4 and Figure A.3), and the fusion of its maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from agvas_runtime.plan import HIDDEN
from agvas_train.model.conv_encoder import Residual, fine_features
from agvas_train.model.transformer import RandomPositionEncoding, TwoWayTransformer

ANCHORS = ("nor", "ano", "seg")
NOR, ANO, SEG = range(3)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of [B, C, H, W]."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * (x - mean) / torch.sqrt(variance + self.eps) + self.bias[:, None, None]


class MLP(nn.Module):
    """Linear layers with ReLU between; SAM's hypernetwork head."""

    def __init__(self, *, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int = 3) -> None:
        super().__init__()
        sizes = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[..., input_dim] to [..., output_dim]."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class AGMD(nn.Module):
    """Tokens [t_nor, t_ano, t_seg, h_nor, h_ano, h_seg] meet f_p; each t' dotted with the upscaled f_p' is a map.

    With `fine`, finer features are packed behind f_p, [B, 4 C, g, g] instead of [B, C, g, g]. They are added on the way
    up, as the mask decoder of SAM 2 does it (Ravi et al., "SAM 2: Segment anything in images and videos", 2024), and a
    convolution follows at twice f_p's side; ours.
    """

    def __init__(self, *, transformer: TwoWayTransformer, transformer_dim: int, fine: bool = False) -> None:
        super().__init__()
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.anchor_tokens = nn.Embedding(len(ANCHORS), transformer_dim)
        self.pe_layer = RandomPositionEncoding(features=transformer_dim // 2)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.fine = Residual(transformer_dim // 4) if fine else None
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(input_dim=transformer_dim, hidden_dim=transformer_dim, output_dim=transformer_dim // 8) for _ in ANCHORS
        )

    def forward(self, anchors: Tensor, pixel: Tensor, present: Sequence[int] = (NOR, ANO, SEG)) -> Tensor:
        """The dot products t'_c . f_p' of the present anchors.

        Args:
            anchors: h of the present anchors [B, A, C], in the order of `present`.
            pixel: f_p [B, C, g, g].
            present: which of NOR, ANO, SEG the answer held; the others' t and h are left out.

        Returns:
            Raw products [B, A, 4 g, 4 g].
        """
        index = torch.tensor(list(present), device=anchors.device)
        return self._products(self.anchor_tokens(index), anchors, pixel, present)

    def masked(self, anchors: Tensor, pixel: Tensor, present: Tensor) -> Tensor:
        """The same for many groups of anchors that lack different ones: absent tokens are hidden instead of left out.

        Args:
            anchors: h of all three anchors [G, 3, C]; rows of absent ones may hold any finite numbers.
            pixel: f_p [G, C, g, g].
            present: float [G, 3], 1 where the answer held the anchor, else 0.

        Returns:
            Raw products [G, 3, 4 g, 4 g]; those of absent anchors mean nothing.
        """
        hidden = (1 - present.repeat(1, 2)) * HIDDEN  # t and h of an absent anchor
        return self._products(self.anchor_tokens.weight, anchors, pixel, (NOR, ANO, SEG), hidden[:, None, None])

    def _products(
        self, learned: Tensor, anchors: Tensor, pixel: Tensor, kinds: Sequence[int], bias: Tensor | None = None
    ) -> Tensor:
        """t [A, C] and h [B, A, C] of the anchors of these kinds, and f_p, to products [B, A, 4 g, 4 g]."""
        tokens = torch.cat((learned.expand(anchors.shape[0], -1, -1), anchors), dim=1)  # B, 2A, C
        grid = pixel.shape[-1]
        pixel, fine = pixel[:, : self.transformer_dim], pixel[:, self.transformer_dim :]
        tokens, flat = self.transformer(pixel, self.pe_layer(grid), tokens, bias)
        upscaled = self._upscaled(flat.transpose(1, 2).unflatten(2, (grid, grid)), fine)  # B, C/8, 4g, 4g
        kernels = torch.stack([self.output_hypernetworks_mlps[c](tokens[:, i]) for i, c in enumerate(kinds)], dim=1)
        return (kernels @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])

    def _upscaled(self, pixel: Tensor, fine: Tensor) -> Tensor:
        """f_p' [B, C, g, g] and the finer features, packed [B, 3 C, g, g] or none [B, 0, g, g], to [B, C/8, 4g, 4g]."""
        if self.fine is None:
            return self.output_upscaling(pixel)
        first, norm, gelu, second, _ = self.output_upscaling
        quarter, half = fine_features(fine)
        return gelu(second(self.fine(gelu(norm(first(pixel) + quarter)))) + half)


def map_logits(products: Tensor, present: Sequence[int] = (NOR, ANO, SEG)) -> Tensor:
    """Logits of P_nor, P_ano and P_seg [B, A, ...] from the dot products.

    P_nor and P_ano are a softmax over both, so their logits are the differences; alone, either is a plain sigmoid.
    """
    logits = list(products.unbind(1))
    if NOR in present and ANO in present:
        nor, ano = present.index(NOR), present.index(ANO)
        difference = products[:, ano] - products[:, nor]
        logits[nor], logits[ano] = -difference, difference
    return torch.stack(logits, dim=1)


def fuse(products: Tensor, alpha: float | Tensor, present: Sequence[int] = (NOR, ANO, SEG)) -> Tensor:
    """P = alpha P_seg + (1 - alpha) P_ano (section B.2) [B, 4 g, 4 g]; with one of the two absent, the other alone.

    With `[NOR]` alone P is 1 - P_nor. Raises ValueError when no anchor is present.
    """
    if not present:
        raise ValueError("no anchor is present")
    maps = torch.sigmoid(map_logits(products, present))
    absolute = maps[:, present.index(SEG)] if SEG in present else None
    relative = maps[:, present.index(ANO)] if ANO in present else None
    if relative is None and NOR in present:
        relative = 1 - maps[:, present.index(NOR)]
    if absolute is None or relative is None:
        return absolute if relative is None else relative
    return alpha * absolute + (1 - alpha) * relative


def fuse_present(products: Tensor, alpha: float | Tensor, present: Tensor) -> Tensor:
    """`fuse` for groups that lack different anchors: products [G, 3, ...] and presence, float [G, 3], to P [G, ...].

    A group without any anchor gives zeros.
    """
    nor, ano, seg = (present[:, c, None, None] for c in (NOR, ANO, SEG))
    absolute = torch.sigmoid(products[:, SEG])
    # softmax over both is a sigmoid of the difference; with one of them it is the sigmoid of its product or 1 - it
    relative = torch.sigmoid(ano * products[:, ANO] - nor * products[:, NOR])
    either = torch.maximum(nor, ano)
    share = seg * torch.where(either > 0, torch.as_tensor(alpha, dtype=products.dtype), 1.0)
    return share * absolute + either * (1 - share) * relative
