"""The five graphs of a bundle as small modules around the model, and their export to ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from agvas_runtime.plan import plan_pass
from agvas_train.checkpoint import Checkpoint
from agvas_train.model import AGVAS
from agvas_train.model.agmd import ANO, NOR, SEG, fuse

OPSET = 23
"""The first with attention, RMS norm and rotary embedding as single nodes; ONNX Runtime 1.23 runs it, the last for
Python 3.10."""


class SemanticEncoderGraph(nn.Module):
    """pixels [1, 3, S, S] -> features f_s [1, N, d]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """F_s and projector."""
        return self.model.semantic_features(pixels)


class PixelEncoderGraph(nn.Module):
    """pixels [1, 3, P, P] -> features f_p [1, C, g, g]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """F_p."""
        return self.model.pixel_features(pixels)


class SpamGraph(nn.Module):
    """semantic f_s [1, N, d], pixel f_p [1, C, g, g] -> visual [1, V, d]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """The visual tokens of the prompt."""
        return self.model.visual_tokens(semantic, pixel)


class LlmGraph(nn.Module):
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[1, T, d], [1, T], [1, 1, T, T], [R], [E], [E] -> greedy [R], margin [R], edge_logprob [E], states [R, d].

        The bias is added to the attention scores: 0 where the row may attend to the column, a huge negative elsewhere.
        The output head sees the rows only: the last prompt token and the trie's nodes.
        """
        states = self.model.hidden_states(inputs_embeds, mask=attention_bias, position_ids=position_ids)[0][rows]
        logits = self.model.logits(states).float()
        best = logits.topk(2, dim=-1).values
        logprobs = logits.log_softmax(-1)
        return logits.argmax(-1), best[:, 0] - best[:, 1], logprobs[edge_rows, edge_tokens], states


class DecoderGraph(nn.Module):
    """Token Refiner, AGMD and fusion: states [3, d], pixel f_p [1, C, g, g], alpha [] -> map [4 g, 4 g]."""

    def __init__(self, model: AGVAS) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, pixel: Tensor, alpha: Tensor) -> Tensor:
        """The fused map, in [0, 1]."""
        return fuse(self.model.products(states[None], pixel, (NOR, ANO, SEG)), alpha)[0]


@dataclass(frozen=True)
class Graph:
    """A graph to export: its module, example inputs by name, output names, and what varies in size."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Input name to {axis: name of the dimension}."""


def graphs_of(checkpoint: Checkpoint) -> list[Graph]:
    """The five graphs with example inputs: random views, and the pass of the default instruction."""
    model, config = checkpoint.model.eval(), checkpoint.config.model
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pixel = random(1, config.agmd.transformer_dim, config.grid, config.grid)
    spec = checkpoint.config.prompt
    plan = plan_pass(spec.default_instruction, checkpoint.prompter, checkpoint.templates, config.visual_tokens)
    trie_dynamic = {
        "inputs_embeds": {1: "T"},
        "position_ids": {1: "T"},
        "attention_bias": {2: "T", 3: "T"},
        "rows": {0: "R"},
        "edge_rows": {0: "E"},
        "edge_tokens": {0: "E"},
    }
    side, canvas = config.semantic_view.size, config.pixel_view.size
    return [
        Graph("semantic_encoder", SemanticEncoderGraph(model), {"pixels": random(1, 3, side, side)}, ("features",)),
        Graph("pixel_encoder", PixelEncoderGraph(model), {"pixels": random(1, 3, canvas, canvas)}, ("features",)),
        Graph(
            "spam",
            SpamGraph(model),
            {"semantic": random(1, config.semantic_tokens, config.hidden_size), "pixel": pixel},
            ("visual",),
        ),
        Graph(
            "llm",
            LlmGraph(model),
            {
                "inputs_embeds": random(1, plan.position_ids.shape[1], config.hidden_size),
                "position_ids": torch.from_numpy(plan.position_ids),
                "attention_bias": torch.from_numpy(plan.attention_bias),
                "rows": torch.from_numpy(plan.rows),
                "edge_rows": torch.from_numpy(plan.trie.edge_rows),
                "edge_tokens": torch.from_numpy(plan.trie.edge_tokens),
            },
            ("greedy", "margin", "edge_logprob", "states"),
            trie_dynamic,
        ),
        Graph(
            "decoder",
            DecoderGraph(model),
            {"states": random(3, config.hidden_size), "pixel": pixel, "alpha": torch.tensor(config.alpha)},
            ("map",),
        ),
    ]


def export_graph(graph: Graph, path: Path, *, opset: int = OPSET) -> None:
    """Write a graph as ONNX."""
    dims = {name: Dim(name) for axes in graph.dynamic.values() for name in axes.values()}
    dynamic = {
        name: {axis: dims[dim] for axis, dim in graph.dynamic[name].items()} if name in graph.dynamic else None
        for name in graph.inputs
    }
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=tuple(dynamic.values()) if graph.dynamic else None,
            external_data=False,
            optimize=True,
            verbose=False,
        )
    _strip_traces(path)


def _strip_traces(path: Path) -> None:
    """Take the exporter's notes out of a graph: stack traces with the paths of this machine, at every node."""
    model = onnx.load(path)
    for part in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
        initializer.doc_string = ""
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its inner steps on every channel it has."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
