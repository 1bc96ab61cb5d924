"""AGMD's attention between a few tokens and many pixels: what the tokens can do is not computed for every pixel.

Of a head's score q . k only one side meets the pixels: the other side's projection is folded into it, and so are value
and output projection. What is left for a pixel are two products, and no head is ever laid out by itself. The numbers
are those of `agvas_train.model.transformer.Attention`, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from agvas_train.model.transformer import Attention, TwoWayTransformer

Part = SimpleNamespace
"""`weight` [heads, width, C] and `bias`, float64."""


class FewQueries(nn.Module):
    """Tokens ask pixels: q [B, L, C], k and v [B, M, C] give [B, L, C].

    A key's own bias moves all scores of a query alike, so it is left out.
    """

    ask: Tensor
    ask_bias: Tensor
    tell: Tensor
    tell_bias: Tensor

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        q, k, v, out, like = _by_head(attention)
        self.heads = attention.num_heads
        self.register_buffer("ask", like(torch.einsum("hwc,hwd->chd", q.weight, k.weight).flatten(1)))
        self.register_buffer("ask_bias", like(torch.einsum("hw,hwd->hd", q.bias, k.weight).flatten()))
        self.register_buffer("tell", like(torch.einsum("hwc,hwd->hcd", v.weight, out.weight).flatten(0, 1)))
        self.register_buffer("tell_bias", like(torch.einsum("hw,hwd->d", v.bias, out.weight) + out.bias))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Attention`, without a bias."""
        asked = (q @ self.ask + self.ask_bias).unflatten(2, (self.heads, -1)).flatten(1, 2)  # B, L * heads, C
        shares = torch.softmax(asked @ k.transpose(1, 2), dim=-1)
        # more rows than columns: ONNX Runtime gives threads rows then, and columns else, which reorders the long sums
        seen = (v.transpose(1, 2) @ shares.transpose(1, 2)).transpose(1, 2)
        return seen.unflatten(1, (-1, self.heads)).flatten(2) @ self.tell + self.tell_bias


class FewKeys(nn.Module):
    """Pixels ask tokens: q [B, M, C], k and v [B, L, C] give [B, M, C]; the bias [B, 1, 1, L] adds to the scores."""

    answer: Tensor
    answer_bias: Tensor
    offset: Tensor
    offset_bias: Tensor
    tell: Tensor
    tell_bias: Tensor
    out_bias: Tensor

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        q, k, v, out, like = _by_head(attention)
        self.heads = attention.num_heads
        self.register_buffer("answer", like(torch.einsum("hwc,hwd->hdc", q.weight, k.weight)))
        self.register_buffer("answer_bias", like(torch.einsum("hwc,hw->hc", q.weight, k.bias)[:, None]))
        self.register_buffer("offset", like(torch.einsum("hw,hwd->hd", q.bias, k.weight)[..., None]))
        self.register_buffer("offset_bias", like(torch.einsum("hw,hw->h", q.bias, k.bias)[:, None, None]))
        self.register_buffer("tell", like(torch.einsum("hwc,hwd->hcd", v.weight, out.weight)))
        self.register_buffer("tell_bias", like(torch.einsum("hw,hwd->hd", v.bias, out.weight)[:, None]))
        self.register_buffer("out_bias", like(out.bias))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `Attention`."""
        keys = k[:, None] @ self.answer + self.answer_bias  # B, heads, L, C
        offset = k[:, None] @ self.offset + self.offset_bias  # B, heads, L, 1
        told = v[:, None] @ self.tell + self.tell_bias
        scores = q @ keys.flatten(1, 2).transpose(1, 2) + offset.flatten(1)[:, None]
        scores = scores.unflatten(2, (self.heads, -1))  # B, M, heads, L
        shares = torch.softmax(scores if bias is None else scores + bias, dim=-1).flatten(2)
        return shares @ told.flatten(1, 2) + self.out_bias


def fold_attention(transformer: TwoWayTransformer) -> None:
    """Put the folded forms in the place of a transformer's own attention between tokens and pixels."""
    for layer in transformer.layers:
        layer.cross_attn_token_to_image = FewQueries(layer.cross_attn_token_to_image)
        layer.cross_attn_image_to_token = FewKeys(layer.cross_attn_image_to_token)
    transformer.final_attn_token_to_image = FewQueries(transformer.final_attn_token_to_image)


@torch.no_grad()
def _by_head(attention: Attention) -> tuple[Part, Part, Part, Part, Callable[[Tensor], Tensor]]:
    """Queries (scaled), keys, values and output by heads, and the way back to the dtype they have."""
    heads, dtype = attention.num_heads, attention.q_proj.weight.dtype
    parts = []
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
        weight, bias = (each.double().unflatten(0, (heads, -1)) for each in (linear.weight, linear.bias))
        parts.append(Part(weight=weight, bias=bias))
    scale = parts[0].weight.shape[1] ** -0.5
    parts[0] = Part(weight=parts[0].weight * scale, bias=parts[0].bias * scale)
    out = attention.out_proj
    end = Part(weight=out.weight.double().t().unflatten(0, (heads, -1)), bias=out.bias.double())
    q, k, v = parts
    return q, k, v, end, lambda tensor: tensor.detach().to(dtype).contiguous()
