"""The graphs of a bundle: small modules around the model, what they must equal, and example inputs.

Nothing here knows of ONNX; `onnx_graph.py` turns a graph into one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from agvas_export.conv import FoldedConvEncoder, with_plain_kernels
from agvas_export.language import DecodeGraph, PassGraph, pick
from agvas_export.sam import FoldedSamEncoder
from agvas_export.two_way import fold_attention
from agvas_runtime.plan import HIDDEN, PassPlan, plan_pass
from agvas_train.checkpoint import Checkpoint
from agvas_train.model import AGVAS
from agvas_train.model.agmd import fuse, fuse_present


class SemanticEncoderGraph(nn.Module):
    """pixels [B, 3, S, S] -> features f_s [B, N, d]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """F_s and projector."""
        return self.model.semantic_features(pixels)


class PixelEncoderGraph(nn.Module):
    """pixels [B, 3, P, P] -> features f_p [B, C, g, g]."""

    def __init__(self, model: AGVAS, kind: str) -> None:
        super().__init__()
        self.model = model
        self.folded: nn.Module | None = None
        if kind in ("sam", "sam-ft"):
            self.folded = FoldedSamEncoder(model.pixel_encoder)
        elif kind == "conv":
            self.folded = FoldedConvEncoder(model.pixel_encoder)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor) -> Tensor:
        """F_p, in its folded form where there is one."""
        if self.folded is None:
            return self.model.pixel_features(pixels)
        return self.model.pixel_projection(self.folded(pixels))


class SpamGraph(nn.Module):
    """semantic f_s [B, N, d], pixel f_p [B, C, g, g] -> visual [B, V, d]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """The visual tokens of the prompt."""
        return self.model.visual_tokens(semantic, pixel)


class DecoderGraph(nn.Module):
    """Token Refiner, AGMD and fusion: states [G, 3, d], present [G, 3], pixel f_p [G, C, g, g], alpha [] -> map.

    Each of the G groups of anchors gives a map [4 g, 4 g]; what it lacks is 0 in `present` instead of 1.
    """

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.token_refiner = model.token_refiner
        self.agmd = with_plain_kernels(model.agmd)
        fold_attention(self.agmd.transformer)

    def forward(self, states: Tensor, present: Tensor, pixel: Tensor, alpha: Tensor) -> Tensor:
        """The fused maps [G, 4 g, 4 g], in [0, 1]."""
        products = self.agmd.masked(self.token_refiner(states), pixel, present)
        return fuse_present(products.float(), alpha, present)


@dataclass(frozen=True)
class Graph:
    """A graph to export.

    Attributes:
        module: what is exported.
        reference: the same function as the reference engine computes it; what the graph is compared with.
        inputs: example inputs by name, float32 and int64. What varies in size is 2 or more in them.
        dynamic: input name to {axis: name of the dimension}.
    """

    name: str
    module: nn.Module
    reference: Callable[..., tuple[Tensor, ...]]
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def default_plan(checkpoint: Checkpoint) -> PassPlan:
    """The pass of the default instruction."""
    config = checkpoint.config
    return plan_pass(
        config.prompt.default_instruction, checkpoint.prompter, checkpoint.templates, config.model.visual_tokens
    )


def graphs_of(checkpoint: Checkpoint) -> list[Graph]:
    """All graphs of a checkpoint, in the order in which a frame meets them; decode stands behind llm."""
    model, config = checkpoint.model.eval(), checkpoint.config.model
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def frames(size: int) -> Tensor:
        return random(2, 3, size, size)

    width, pixel = config.hidden_size, random(2, config.pixel_channels, config.grid, config.grid)
    batch = {0: "B"}
    return [
        Graph(
            "semantic_encoder",
            SemanticEncoderGraph(model),
            lambda pixels: (model.semantic_features(pixels),),
            {"pixels": frames(config.semantic_view.size)},
            ("features",),
            {"pixels": batch},
        ),
        Graph(
            "pixel_encoder",
            PixelEncoderGraph(model, config.pixel_encoder),
            lambda pixels: (model.pixel_features(pixels),),
            {"pixels": frames(config.pixel_view.size)},
            ("features",),
            {"pixels": batch},
        ),
        Graph(
            "spam",
            SpamGraph(model),
            lambda semantic, pixel: (model.visual_tokens(semantic, pixel),),
            {"semantic": random(2, config.semantic_tokens, width), "pixel": pixel},
            ("visual",),
            {"semantic": batch, "pixel": batch},
        ),
        *_language_graphs(checkpoint, random),
        Graph(
            "decoder",
            DecoderGraph(model),
            lambda states, present, pixel, alpha: (_maps(model, states, present, pixel, float(alpha)),),
            {
                "states": random(2, 3, width),
                "present": torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]),
                "pixel": pixel,
                "alpha": torch.tensor(config.alpha),
            },
            ("map",),
            {"states": {0: "G"}, "present": {0: "G"}, "pixel": {0: "G"}},
        ),
    ]


def _language_graphs(checkpoint: Checkpoint, random: Callable[..., Tensor]) -> list[Graph]:
    model, config, plan = checkpoint.model, checkpoint.config.model, default_plan(checkpoint)
    language, width = config.language, config.hidden_size
    heads, layers = int(language["num_key_value_heads"]), int(language["num_hidden_layers"])
    past = (layers, 2, heads, plan.prompt_length, width // int(language["num_attention_heads"]))
    behind = {1: "B", 3: "P"}
    return [
        Graph(
            "llm",
            PassGraph(model),
            lambda *feeds: _pass(model, *feeds),
            {
                "before": random(1, len(plan.before), width),
                "visual": random(2, config.visual_tokens, width),
                "after": random(1, len(plan.after), width),
                "nodes": random(1, len(plan.trie.tokens), width),
                "depths": torch.from_numpy(plan.trie.depths),
                "node_bias": torch.from_numpy(plan.node_bias),
                "edge_rows": torch.from_numpy(plan.trie.edge_rows),
                "edge_tokens": torch.from_numpy(plan.trie.edge_tokens),
            },
            ("greedy", "margin", "edge_logprob", "states", "keys", "values"),
            {
                "before": {1: "S"},
                "visual": {0: "B"},
                "after": {1: "T"},
                "nodes": {1: "K"},
                "depths": {0: "K"},
                "node_bias": {0: "K", 1: "K"},
                "edge_rows": {0: "E"},
                "edge_tokens": {0: "E"},
            },
        ),
        Graph(
            "decode",
            DecodeGraph(model),
            lambda *feeds: _step(model, *feeds),
            {
                "inputs_embeds": random(2, 1, width),
                "position_ids": torch.full((1, 1), plan.prompt_length),
                "past_keys": random(*past),
                "past_values": random(*past),
            },
            ("greedy", "margin", "state", "keys", "values", "logits"),
            {"inputs_embeds": {0: "B"}, "past_keys": behind, "past_values": behind},
        ),
    ]


def _pass(
    model: AGVAS,
    before: Tensor,
    visual: Tensor,
    after: Tensor,
    nodes: Tensor,
    depths: Tensor,
    node_bias: Tensor,
    edge_rows: Tensor,
    edge_tokens: Tensor,
) -> tuple[Tensor, ...]:
    """PassGraph by the library's own forward, with one mask over everything."""
    batch = visual.shape[0]
    parts = (before.expand(batch, -1, -1), visual, after.expand(batch, -1, -1), nodes.expand(batch, -1, -1))
    embeds = torch.cat(parts, dim=1)
    length = embeds.shape[1] - len(depths)
    positions = torch.cat((torch.arange(length), depths + length - 1))[None]
    bias = torch.full((embeds.shape[1],) * 2, HIDDEN).triu(1)
    bias[length:, length:] = node_bias
    cache = DynamicCache()
    states = model.hidden_states(embeds, mask=bias[None, None], position_ids=positions, cache=cache)[:, length - 1 :]
    logits = model.logits(states).float()
    return *pick(logits), logits.log_softmax(-1)[:, edge_rows, edge_tokens], states, *_past(cache)


def _step(model: AGVAS, embeds: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """DecodeGraph by the library's own forward."""
    cache = DynamicCache()
    for layer, pair in enumerate(zip(keys, values, strict=True)):
        cache.update(*pair, layer)
    state = model.hidden_states(embeds, position_ids=positions, cache=cache)[:, -1]
    logits = model.logits(state).float()
    return *pick(logits), state, *_past(cache), logits


def _past(cache: DynamicCache) -> tuple[Tensor, Tensor]:
    """Keys and values, [layers, B, key heads, T, head width] each."""
    return torch.stack([each.keys for each in cache.layers]), torch.stack([each.values for each in cache.layers])


def _maps(model: AGVAS, states: Tensor, present: Tensor, pixel: Tensor, alpha: float) -> Tensor:
    """DecoderGraph as the reference engine does it: group by group, absent anchors left out."""
    maps = []
    for group, mask in enumerate(present):
        kinds = tuple(mask.nonzero()[:, 0].tolist())
        products = model.products(states[group : group + 1, list(kinds)], pixel[group : group + 1], kinds)
        maps.append(fuse(products, alpha, kinds)[0])
    return torch.stack(maps)
