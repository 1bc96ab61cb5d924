"""The language model's pass over prompt and trie nodes, written for a GPU: what `agvas_export.language` is for export.

The same function with the same weights. Projections that read the same rows are one matrix (the library's own layers
become views of it), attention is causal by a fused kernel for the prompt and masked for the nodes, the last layer and
the output head see the wanted rows alone, and every layer runs the same compiled code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from attention import attend, fastest_for
from timing import ERRORS, Compiled, fresh_memory
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, apply_rotary_pos_emb

from agvas_runtime.plan import HIDDEN, Known, PassPlan, plan_pass
from agvas_train.checkpoint import Checkpoint
from agvas_train.model import AGVAS

MULTIPLE = 16
"""Rows of a pass with nodes come in multiples of this: further nodes that nothing sees and nobody reads."""


def fused(*linears: nn.Linear) -> nn.Linear:
    """One layer that gives what several give, side by side; they become views of its weights."""
    weight = torch.cat([each.weight.detach() for each in linears])
    with torch.device("meta"):
        whole = nn.Linear(linears[0].in_features, len(weight), bias=linears[0].bias is not None)
    whole.weight = nn.Parameter(weight, requires_grad=False)
    if linears[0].bias is not None:
        whole.bias = nn.Parameter(torch.cat([each.bias.detach() for each in linears]), requires_grad=False)
    start = 0
    for each in linears:
        rows = slice(start, start + each.out_features)
        each.weight = nn.Parameter(weight[rows], requires_grad=False)
        if whole.bias is not None:
            each.bias = nn.Parameter(whole.bias[rows], requires_grad=False)
        start += each.out_features
    return whole


class Masks(NamedTuple):
    """What the rows behind the prompt may see; T tokens, K of them nodes."""

    nodes: Tensor
    """Bias [1, 1, groups * K, T] of the nodes, once for each of the heads that share keys."""
    last: Tensor
    """The same of the last prompt token and the nodes, the last layer's rows: [1, 1, groups * (K + 1), T]."""
    whole: Tensor | None = None
    """Bias [1, 1, T, T] of everything, for attention by one mask."""
    blocks: BlockMask | None = None
    """The same for attention by blocks."""


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, layer: Qwen2DecoderLayer) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm, self.norm2 = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = fused(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.down = attention.o_proj, layer.mlp.down_proj
        self.gate_up = fused(layer.mlp.gate_proj, layer.mlp.up_proj)
        self.width: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.width
        self.key_heads = attention.k_proj.out_features // self.width

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], masks: Masks, length: int, first: int, how: str, kernel: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [B, T, d], of which `length` are the prompt's; those from `first` on go on: [B, T - first, d].

        `how` is "split" (causal for the prompt, masked for the nodes), "one" (one mask over everything) or "flex" (one
        kernel that skips blocks). Also returns keys and values [B, key heads, T, w].
        """
        parts = self.qkv(self.norm(x)).unflatten(-1, (-1, self.width)).transpose(1, 2)
        q, k, v = parts.split((self.heads, self.key_heads, self.key_heads), dim=1)
        q, k = apply_rotary_pos_emb(q, k, *rotary)
        v = v.contiguous()
        if first:
            seen = self._masked(q[:, :, first:], k, v, masks.last)
        elif how == "one":
            seen = self._one(q, k, v, masks.whole)
        elif how == "flex":
            scale = self.width**-0.5
            seen = flex_attention(q, k, v, block_mask=masks.blocks, scale=scale, enable_gqa=True)
        else:
            seen = attend(
                q[:, :, :length], k[:, :, :length], v[:, :, :length], kernel, causal=True, scale=self.width**-0.5
            )
            if q.shape[2] > length:
                seen = torch.cat((seen, self._masked(q[:, :, length:], k, v, masks.nodes)), dim=2)
        x = x[:, first:] + self.out(seen.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), k, v

    def _masked(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """[B, heads, R, w] against everything, by a bias [1, 1, groups * R, T]: heads that share keys become rows."""
        groups, rows = self.heads // self.key_heads, q.shape[2]
        q = q.unflatten(1, (-1, groups)).flatten(2, 3)
        bias = bias.expand(q.shape[0], q.shape[1], -1, -1)
        out = attend(q, k, v, "efficient", bias, scale=self.width**-0.5)
        return out.unflatten(2, (groups, rows)).flatten(1, 2)

    def _one(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        groups = self.heads // self.key_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return attend(q, k, v, "efficient", bias.expand(q.shape[0], q.shape[1], -1, -1), scale=self.width**-0.5)


class Rows(NamedTuple):
    """Of the last prompt token and every node, R rows."""

    greedy: Tensor
    """int64 [B, R]."""
    margin: Tensor
    """Gap between the best two logits, float32 [B, R]."""
    edge_logprob: Tensor
    """float32 [B, E]."""
    states: Tensor
    """[B, R, d]."""
    keys: list[Tensor]
    values: list[Tensor]


def pick(logits: Tensor, edge_rows: Tensor, edge_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy tokens (lowest id on ties), margins and edges' log-probabilities of logits [B, R, vocabulary]."""
    logits = logits.float()
    ids = torch.arange(logits.shape[-1], device=logits.device)
    best = logits.amax(-1, keepdim=True)
    greedy = torch.where(logits == best, ids, logits.shape[-1] - 1).amin(-1, keepdim=True)
    second = torch.where(ids == greedy, -torch.inf, logits).amax(-1)
    logprob = logits[:, edge_rows, edge_tokens] - logits.logsumexp(-1)[:, edge_rows]
    return greedy[..., 0], best[..., 0] - second, logprob


class Plan:
    """An instruction's pass as tensors on the device; `rows` counts what is read, padding left out.

    Without `known` it is plain prefill: the prompt alone, K = 0.
    """

    def __init__(self, checkpoint: Checkpoint, known: Known | None, device: str) -> None:
        config, model = checkpoint.config.model, checkpoint.model
        asked = checkpoint.config.prompt.default_instruction
        given = known or Known.NOTHING
        self.plan: PassPlan = plan_pass(asked, checkpoint.prompter, checkpoint.templates, config.visual_tokens, given)
        trie, self.length = self.plan.trie, self.plan.prompt_length
        nodes = len(trie.tokens) if known else 0
        self.rows = nodes + 1
        pad = -(self.length + nodes) % MULTIPLE if nodes else 0
        self.tokens = self.length + nodes + pad
        self.apart = self.tokens + -self.tokens % MULTIPLE  # a mask's rows, as the masked kernel wants them
        dtype = model.llava.lm_head.weight.dtype
        last = torch.full((nodes + pad + 1, self.apart), HIDDEN)
        last[:, : self.length] = 0
        last[1 : nodes + 1, self.length : self.length + nodes] = torch.from_numpy(self.plan.node_bias[:nodes, :nodes])
        last = last.to(device, dtype)
        self.sees = last[:, : self.tokens]  # K + 1, T
        groups = config.language["num_attention_heads"] // config.language["num_key_value_heads"]
        tiled = (each.repeat(groups, 1)[None, None, :, : self.tokens] for each in (last[1:], last))
        self.masks = Masks(*tiled)
        self._blocks: Masks | None = None
        depths = torch.cat((torch.from_numpy(trie.depths[:nodes]), torch.ones(pad, dtype=torch.int64)))
        self.positions = torch.cat((torch.arange(self.length), depths + self.length - 1))[None].to(device)
        ids = [*trie.tokens[:nodes].tolist(), *[checkpoint.prompter.end_id] * pad]
        self.before, self.after, self.nodes = (
            model.embed(torch.tensor(each, dtype=torch.int64, device=device))[None]
            for each in (self.plan.before.tolist(), self.plan.after.tolist(), ids)
        )
        edges = (trie.edge_rows, trie.edge_tokens) if nodes else (trie.edge_rows[:0],) * 2
        self.edge_rows, self.edge_tokens = (torch.from_numpy(each.copy()).to(device) for each in edges)
        self.rotary = model.llava.model.language_model.rotary_emb(self.before, self.positions)

    def masks_for(self, how: str) -> Masks:
        """Those that a way of attention needs."""
        return {"one": self.with_whole, "flex": self.with_blocks}.get(how, lambda: self.masks)()

    def with_whole(self) -> Masks:
        """Masks for attention by one mask."""
        whole = torch.full((self.tokens, self.apart), HIDDEN, device=self.sees.device, dtype=self.sees.dtype).triu(1)
        whole = whole[:, : self.tokens]
        whole[self.length :] = self.sees[1:]
        return self.masks._replace(whole=whole[None, None])

    def with_blocks(self) -> Masks:
        """Masks for attention by blocks; made once, since what is compiled for them is theirs."""
        if self._blocks is not None:
            return self._blocks
        length, sees = self.length, self.sees[1:] == 0  # K, T

        def causal(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            return column <= row

        def may(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            node = (row - length).clamp(min=0, max=max(len(sees) - 1, 0))
            return torch.where(row < length, column <= row, sees[node, column])

        size, device = self.tokens, self.sees.device
        blocks = create_block_mask(may if len(sees) else causal, None, None, size, size, device=str(device))
        self._blocks = self.masks._replace(blocks=blocks)
        return self._blocks


class Language(nn.Module):
    """The whole pass: visual tokens [B, V, d] in, `Rows` out."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        language = model.llava.model.language_model
        self.blocks = nn.ModuleList(Block(layer) for layer in language.layers)
        self.norm, self.head = language.norm, model.llava.lm_head
        self._block = Compiled(Block.forward)
        self._tail = Compiled(_tail)

    def kernel(self, plan: Plan) -> str:
        """The fastest kernel for the prompt's attention."""
        block = self.blocks[0]
        q, k = ((1, heads, plan.length, block.width) for heads in (block.heads, block.key_heads))
        return fastest_for(q, k, k, plan.before, causal=True)

    def try_out(self, visual: Tensor, plan: Plan, how: str, kernel: str, masks: Masks) -> None:
        """Run once; raises RuntimeError with the reason where the blocks do not run compiled with this attention."""
        block = (self.blocks[0], plan.length, 0, how, kernel)
        if not self._block.failure(*block):
            self(visual, plan, how, kernel, masks)
        if failure := self._block.failure(*block):
            raise RuntimeError(failure)

    def way(self, visual: Tensor, plan: Plan, how: str, kernel: str) -> tuple[str, Masks]:
        """The way of attention to take for a plan, and its masks: "split" where "flex" fails, and ERRORS says why."""
        if how == "flex":
            try:
                self.try_out(visual, plan, how, kernel, plan.with_blocks())
            except Exception as failure:
                ERRORS["attention by blocks"] = f"{type(failure).__name__}: {failure}"[:800]
                how = "split"
            finally:
                fresh_memory()
        return how, plan.masks_for(how)

    def forward(
        self, visual: Tensor, plan: Plan, how: str = "split", kernel: str = "flash", masks: Masks | None = None
    ) -> Rows:
        """`masks` are those that `how` needs; the plan's own do for "split"."""
        batch = visual.shape[0]
        around = (part.expand(batch, -1, -1) for part in (plan.before, plan.after, plan.nodes))
        before, after, nodes = around
        x = torch.cat((before, visual, after, nodes), dim=1)
        keys, values = [], []
        for index, block in enumerate(self.blocks):
            first = plan.length - 1 if index == len(self.blocks) - 1 else 0
            x, k, v = self._block(block, x, plan.rotary, masks or plan.masks, plan.length, first, how, kernel)
            keys.append(k)
            values.append(v)
        read = self._tail(self.norm, self.head, x[:, : plan.rows], plan.edge_rows, plan.edge_tokens)
        return Rows(*read, keys, values)


def _tail(
    norm: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor], x: Tensor, rows: Tensor, tokens: Tensor
) -> tuple[Tensor, ...]:
    states = norm(x)
    return *pick(head(states), rows, tokens), states
