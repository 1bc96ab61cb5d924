"""Qwen2's layers written out for export, with the library's own modules and weights: one function serves three graphs.

What the library's forward cannot give: keys and values as plain tensors, grouped heads that are never repeated, and a
last layer that computes the wanted rows alone: keys and values are needed of every row, queries, MLP and the closing
norm are not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from agvas_train.model import AGVAS


class Past(NamedTuple):
    """Keys and values of every layer, [layers, B, key heads, T, head width] each."""

    keys: Tensor
    values: Tensor


def run_layers(
    model: AGVAS,
    embeds: Tensor,
    position_ids: Tensor,
    *,
    rows: Tensor | None = None,
    bias: Tensor | None = None,
    past: Past | None = None,
) -> tuple[Tensor, Past]:
    """Last-layer states, after the closing norm, of the wanted rows.

    Args:
        model: the whole model.
        embeds: input embeddings [B, T, d].
        position_ids: int64 [1, T].
        rows: int64 [R], the wanted ones of the T rows; the last one when None.
        bias: float [1, 1, T, T], added to the scores. Without it every row sees what is before it and itself, and only
            the last one can be had.
        past: what came before; then T is 1.

    Returns:
        States [B, R, d], and keys and values of past and new rows.
    """
    language = model.llava.model.language_model
    cos, sin = language.rotary_emb(embeds, position_ids.expand(embeds.shape[0], -1))
    x, keys, values = embeds, [], []
    *layers, last = language.layers
    for index, layer in enumerate((*layers, last)):
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        q, k, v = (
            project(normed).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        if past is not None:
            k, v = torch.cat((past.keys[index], k), dim=2), torch.cat((past.values[index], v), dim=2)
        keys.append(k)
        values.append(v)
        mask = bias
        if layer is last and rows is None:
            q, x = q[:, :, -1:], x[:, -1:]
        elif layer is last:
            q, x, mask = q[:, :, rows], x[:, rows], bias[:, :, rows]
        causal = bias is None and past is None and layer is not last
        x = x + attention.o_proj(_attend(q, k, v, mask, causal=causal))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return language.norm(x), Past(torch.stack(keys), torch.stack(values))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """[B, heads, R, w], [B, key heads, T, w] twice: [B, R, heads * w]."""
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)


class PassGraph(nn.Module):
    """One pass over prompt and trie: each row's greedy token, top-2 margin and state, each edge's log-probability."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        rows: Tensor,
        edge_rows: Tensor,
        edge_tokens: Tensor,
    ) -> tuple[Tensor, ...]:
        """[B, T, d], [1, T], [1, 1, T, T], [R], [E], [E] -> greedy [B, R], margin, edge_logprob [B, E], states, past.

        The bias is added to the attention scores: 0 where the row may attend to the column, a huge negative elsewhere.
        The rows, the last prompt token and the trie's nodes, are all that the output head sees.
        """
        states, past = run_layers(self.model, inputs_embeds, position_ids, rows=rows, bias=attention_bias)
        logits = self.model.logits(states).float()
        greedy, margin = pick(logits)
        return greedy, margin, logits.log_softmax(-1)[:, edge_rows, edge_tokens], states, *past


class PrefillGraph(nn.Module):
    """The prompt alone, causal: what the text modes begin with."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs_embeds: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        """[B, T, d], [1, T] -> greedy [B], margin [B], state [B, d] of the last token, keys and values."""
        return _next(self.model, *run_layers(self.model, inputs_embeds, position_ids))


class DecodeGraph(nn.Module):
    """One more token behind keys and values."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, ...]:
        """[B, 1, d], [1, 1], [layers, B, key heads, P, w] twice -> greedy [B], margin [B], state [B, d], both + 1."""
        past = Past(past_keys, past_values)
        return _next(self.model, *run_layers(self.model, inputs_embeds, position_ids, past=past))


def _next(model: AGVAS, states: Tensor, past: Past) -> tuple[Tensor, ...]:
    greedy, margin = pick(
        model.logits(states).float()
    )  # three axes, as in the pass: the same product, the same weights
    return greedy[:, 0], margin[:, 0], states[:, 0], *past


def pick(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy token [...], the lowest on ties, and the gap between the best two of logits [..., vocabulary]."""
    best = logits.topk(2, dim=-1).values
    return logits.argmax(-1), best[..., 0] - best[..., 1]
