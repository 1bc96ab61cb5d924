"""What a graph's arithmetic is counted as: hand formulas, the checkpoint's own figures, and nothing computed."""

import resource
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agvas_export.cost import graph_cost
from agvas_export.graphs import Graph, default_plan
from agvas_runtime.manifest import Cost
from agvas_train.checkpoint import Checkpoint
from agvas_train.model.cost import model_cost
from tests.export.conftest import Exported


class Attention(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **self.options)


class Computed(TorchDispatchMode):
    """Keeps the operators that made a tensor of numbers, neither a fake one nor one without memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(type(each) is Tensor and each.device.type != "meta" for each in tree_leaves(made)):
            self.names.add(str(func))
        return made


def cost(module: nn.Module, dynamic: dict[str, dict[int, str]] | None = None, **inputs: Tensor) -> Cost:
    return graph_cost(Graph("trial", module, module, inputs, ("y",), dynamic or {}))


def by_part(checkpoint: Checkpoint) -> dict[str, int]:
    plan, config = default_plan(checkpoint), checkpoint.config.model
    text = plan.prompt_length - config.visual_tokens
    return {row.part: row.flops for row in model_cost(config, text_tokens=text, trie_nodes=len(plan.trie.tokens))}


def test_a_linear_layer_counts_for_one_of_the_batch() -> None:
    found = cost(nn.Linear(8, 16), {"x": {0: "B", 1: "T"}}, x=torch.randn(2, 5, 8))
    assert found == Cost(flops=2 * 5 * 8 * 16, matrix_flops=2 * 5 * 8 * 16, sizes={"B": 1, "T": 5})


def test_attention_counts_both_products_of_every_query_head() -> None:
    query, key, value = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 12)
    found = cost(Attention(enable_gqa=True), query=query, key=key, value=value)
    assert found == Cost(flops=4 * 6 * 10 * 2 * (8 + 12), matrix_flops=0, sizes={})


def test_of_causal_attention_half_counts() -> None:
    shape = torch.randn(3, 4, 6, 8)
    whole, causal = (
        cost(
            Attention(is_causal=half),
            {"query": {0: "G"}, "key": {0: "G"}, "value": {0: "G"}},
            query=shape,
            key=shape,
            value=shape,
        )
        for half in (False, True)
    )
    assert whole.flops == 4 * 6 * 6 * 4 * 8
    assert 2 * causal.flops == whole.flops


def test_a_convolution_is_no_product_with_a_constant_matrix() -> None:
    found = cost(nn.Conv2d(3, 8, 2, stride=2), x=torch.randn(1, 3, 6, 6))
    assert found == Cost(flops=2 * 9 * 3 * 4 * 8, matrix_flops=0, sizes={})


@pytest.mark.parametrize(
    ("graph", "parts"),
    [
        ("semantic_encoder", ("semantic_encoder", "projector")),
        ("pixel_encoder", ("pixel_encoder",)),
        ("spam", ("spam",)),
    ],
)
def test_a_graph_costs_what_its_part_of_the_model_does(
    graphs: dict[str, Graph], checkpoint: Checkpoint, graph: str, parts: tuple[str, ...]
) -> None:
    known, found = by_part(checkpoint), graph_cost(graphs[graph])
    assert found.flops == sum(known[part] for part in parts)
    assert 0 < found.matrix_flops < found.flops


def test_the_decoder_saves_what_pixels_projections_would_cost(graphs: dict[str, Graph], checkpoint: Checkpoint) -> None:
    """Between tokens and pixels of C channels: heads times C instead of the inner width, and nothing else a pixel."""
    transformer, tokens, pixels = checkpoint.model.agmd.transformer, 6, checkpoint.config.model.grid**2
    attention = transformer.final_attn_token_to_image
    width, inner, heads = attention.q_proj.in_features, attention.q_proj.out_features, attention.num_heads
    before = 2 * (tokens + pixels) * width * inner + 2 * tokens * pixels * inner
    asked = 2 * tokens * width * heads * width + 2 * tokens * heads * pixels * width
    told = asked + tokens * width * heads
    depth = len(transformer.layers)
    saved = 2 * ((depth + 1) * (before - asked) + depth * (before - told))
    assert graph_cost(graphs["decoder"]).flops == by_part(checkpoint)["mask_decoder"] - saved
    assert saved > 0


def test_the_pass_saves_what_the_last_layers_prompt_rows_would_cost(
    graphs: dict[str, Graph], checkpoint: Checkpoint
) -> None:
    """Of the prompt only the last row leaves the last layer: query, attention, output projection and MLP are its own.

    `model_cost` rounds half of an odd square down, in every layer.
    """
    config, plan, known = checkpoint.config.model, default_plan(checkpoint), by_part(checkpoint)
    width, mlp, prompt = config.hidden_size, int(config.language["intermediate_size"]), plan.prompt_length
    saved = 2 * (prompt - 1) * (2 * width * width + 3 * width * mlp) + 4 * width * (prompt**2 // 2 - prompt)
    found = graph_cost(graphs["llm"])
    rounding = 2 * width * int(config.language["num_hidden_layers"])
    assert found.flops == pytest.approx(known["language_model"] + known["output_head"] - saved, abs=rounding)
    assert found.sizes["K"] == len(plan.trie.tokens)


def test_a_token_passes_every_matrix_once(graphs: dict[str, Graph], checkpoint: Checkpoint) -> None:
    config, language = checkpoint.config.model, checkpoint.config.model.language
    width, layers, mlp = config.hidden_size, int(language["num_hidden_layers"]), int(language["intermediate_size"])
    narrow = width // int(language["num_attention_heads"]) * int(language["num_key_value_heads"])
    matrices = layers * (2 * width * width + 2 * width * narrow + 3 * width * mlp) + width * int(language["vocab_size"])
    found = graph_cost(graphs["decode"])
    assert found.matrix_flops == 2 * matrices
    assert found.flops == 2 * matrices + 4 * width * layers * (found.sizes["P"] + 1)


def test_no_product_and_no_convolution_is_computed() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.plain = nn.Conv2d(3, 8, 2), nn.Linear(200, 4), nn.Linear(200, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            flat = self.conv(x).flatten(1)
            return self.linear(flat) + self.plain(flat)

    layers, x = Both(), torch.randn(1, 3, 6, 6)
    products = {"aten.convolution.default", "aten.addmm.default", "aten.mm.default"}
    with torch.no_grad(), Computed() as computed:
        layers(x)
        assert products <= computed.names
        computed.names.clear()
        assert cost(layers, x=x).flops > 0
    assert products.isdisjoint(computed.names)


def test_no_weight_is_read_or_copied() -> None:
    side = 2**15
    layer = nn.utils.skip_init(nn.Linear, side, side, bias=False)  # 4 GiB that nobody has touched
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cost(layer, x=torch.empty(1, side)).flops == 2 * side * side
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**28
    assert type(layer.weight) is nn.Parameter  # and the module is as it was


def test_the_export_writes_the_counts(exported: Exported, graphs: dict[str, Graph]) -> None:
    _, manifest, _ = exported
    assert {name: spec.cost for name, spec in manifest.graphs.items()} == {
        name: graph_cost(graph) for name, graph in graphs.items()
    }
