"""Qwen2's layers written out for export, with the library's own modules and weights, for the two graphs that run them.

What the library's forward cannot give: keys and values as plain tensors, grouped heads that are never repeated, plain
causal attention for the prompt beside a small masked one for the trie's nodes, and a last layer that computes the
wanted rows alone: keys and values are needed of every row, queries, MLP and the closing norm are not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, apply_rotary_pos_emb

from agvas_train.model import AGVAS


class Past(NamedTuple):
    """Keys and values of every layer, [layers, B, key heads, T, head width] each."""

    keys: Tensor
    values: Tensor


Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of the rows' positions, [B, T, head width] each."""


class PassGraph(nn.Module):
    """One pass over prompt and trie: each row's greedy token, top-2 margin and state, each edge's log-probability.

    Rows are the last prompt token and the trie's nodes, in this order; they are all that the output head sees.
    """

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        before: Tensor,
        visual: Tensor,
        after: Tensor,
        nodes: Tensor,
        depths: Tensor,
        node_bias: Tensor,
        edge_rows: Tensor,
        edge_tokens: Tensor,
    ) -> tuple[Tensor, ...]:
        """Embeddings [1, S, d], [B, V, d], [1, T, d], [1, K, d]; int64 [K], float [K, K], int64 [E] twice.

        A node stands `depths` places behind the last prompt token; it sees the whole prompt, and of the nodes what the
        bias leaves, which is added to the scores: 0 where the row may attend to the column, a huge negative elsewhere.

        Returns greedy int64 [B, K + 1], margin [B, K + 1], edge_logprob [B, E], states [B, K + 1, d], keys and values
        of all S + V + T + K tokens.
        """
        batch = visual.shape[0]
        prompt = torch.cat((before.expand(batch, -1, -1), visual, after.expand(batch, -1, -1)), dim=1)
        length = prompt.shape[1]
        places = torch.arange(length, device=depths.device)
        positions = torch.cat((places, depths + (length - 1)))[None]
        x = torch.cat((prompt, nodes.expand(batch, -1, -1)), dim=1)
        bias = torch.cat((node_bias.new_zeros(node_bias.shape[0], length), node_bias), dim=1)[None, None]
        states, past = self._layers(x, length, _rotary(self.model, x, positions), bias)
        logits = self.model.logits(states).float()
        greedy, margin = pick(logits)
        return greedy, margin, logits.log_softmax(-1)[:, edge_rows, edge_tokens], states, *past

    def _layers(self, x: Tensor, length: int, rotary: Rotary, bias: Tensor) -> tuple[Tensor, Past]:
        language = self.model.llava.model.language_model
        *layers, last = language.layers
        keys, values = [], []
        for layer in (*layers, last):
            first = length - 1 if layer is last else 0
            q, k, v = _projected(layer, x, rotary, first)
            keys.append(k)
            values.append(v)
            prompt = _attend(q[:, :, : length - first], k[:, :, :length], v[:, :, :length], causal=layer is not last)
            behind = _attend(q[:, :, length - first :], k, v, bias)
            x = _finished(layer, x[:, first:], torch.cat((prompt, behind), dim=1))
        return language.norm(x), Past(torch.stack(keys), torch.stack(values))


class DecodeGraph(nn.Module):
    """One more token behind keys and values: how an answer goes on where it leaves the known ones."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs_embeds: Tensor, position_ids: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, ...]:
        """[B, 1, d], [1, 1], [layers, B, key heads, P, w] twice.

        Returns greedy [B], margin [B], state [B, d], keys and values with the new token's, logits [B, vocabulary].
        """
        language = self.model.llava.model.language_model
        x, keys, values = inputs_embeds, [], []
        rotary = _rotary(self.model, x, position_ids)
        for index, layer in enumerate(language.layers):
            q, k, v = _projected(layer, x, rotary)
            keys.append(torch.cat((past_keys[index], k), dim=2))
            values.append(torch.cat((past_values[index], v), dim=2))
            x = _finished(layer, x, _attend(q, keys[-1], values[-1]))
        states = language.norm(x)
        logits = self.model.logits(states).float()  # three axes, as in the pass: the same product, the same weights
        greedy, margin = pick(logits)
        return greedy[:, 0], margin[:, 0], states[:, 0], torch.stack(keys), torch.stack(values), logits[:, 0]


def pick(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy token [...] and the gap between the best two of logits [..., vocabulary].

    On ties it is the lowest token in ONNX, whose TopK puts it first; PyTorch leaves that open.
    """
    best = logits.topk(2, dim=-1)
    return best.indices[..., 0], best.values[..., 0] - best.values[..., 1]


def _rotary(model: AGVAS, x: Tensor, positions: Tensor) -> Rotary:
    """Of positions int64 [1, T], the same for the whole batch."""
    cos, sin = model.llava.model.language_model.rotary_emb(x, positions.expand(x.shape[0], -1))
    return cos, sin


def _projected(layer: Qwen2DecoderLayer, x: Tensor, rotary: Rotary, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [B, T, d] to queries [B, heads, T - first, w], keys and values [B, key heads, T, w]."""
    attention, (cos, sin) = layer.self_attn, rotary
    normed = layer.input_layernorm(x)
    q, k, v = (
        project(rows).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for project, rows in (
            (attention.q_proj, normed[:, first:]),
            (attention.k_proj, normed),
            (attention.v_proj, normed),
        )
    )
    if first:  # the function turns both alike
        q, _ = apply_rotary_pos_emb(q, q, cos[:, first:], sin[:, first:])
        k, _ = apply_rotary_pos_emb(k, k, cos, sin)
    else:
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
    return q, k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
    """[B, heads, R, w], [B, key heads, T, w] twice: [B, R, heads * w]."""
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)


def _finished(layer: Qwen2DecoderLayer, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a layer behind its attention: both residuals and the MLP, on rows [B, R, d]."""
    x = x + layer.self_attn.o_proj(attended)
    return x + layer.mlp(layer.post_attention_layernorm(x))
