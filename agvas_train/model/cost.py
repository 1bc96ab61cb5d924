"""Parameters and arithmetic of every part of a model, from its configuration alone; no weight is ever allocated.

Counted as the paper runs it: one full pass over the prompt, the output head on the rows that need it and nowhere else.
Exact savings of the exported graphs (last-layer queries of the trie's rows only, SAM's padding) are not taken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from agvas_train.model.agvas import AGVAS
from agvas_train.model.build import build_agvas
from agvas_train.model.config import ModelConfig

PARTS = {
    "semantic_encoder": ("llava.model.vision_tower.",),
    "projector": ("llava.model.multi_modal_projector.", "llava.model.image_newline"),
    "pixel_encoder": ("pixel_",),
    "spam": ("spam.",),
    "token_embeddings": ("llava.model.language_model.embed_tokens.",),
    "language_model": ("llava.model.language_model.",),
    "output_head": ("llava.lm_head.",),
    "mask_decoder": ("token_refiner.", "agmd."),
}
"""Parts in the order of the data, and how their parameters' names begin; the first that fits owns a parameter."""
TOTAL = "total"
ANCHORS = (0, 1, 2)


@dataclass(frozen=True)
class PartCost:
    """What one part of a model costs.

    Attributes:
        part: a key of `PARTS`, or "total".
        parameters: a tied output head counts with the token embeddings.
        bytes_bf16: of the parameters in 16 bits.
        flops: per frame; a multiplication and an addition are two.
    """

    part: str
    parameters: int
    bytes_bf16: int
    flops: int

    def as_json(self) -> dict[str, str | int]:
        """For machines."""
        return asdict(self)


def model_cost(config: ModelConfig, *, text_tokens: int, trie_nodes: int = 0) -> list[PartCost]:
    """Parameters, bytes and FLOPs per frame of every part, then their total.

    Args:
        config: the model.
        text_tokens: the prompt's tokens beside the visual ones.
        trie_nodes: candidate tokens that run in the same pass; each attends to the whole prompt and the trie. The
            output head runs on the prompt's last token and on every node.
    """
    with torch.device("meta"):
        model = build_agvas(config)
    parameters = part_parameters(model)
    flops = _part_flops(model, config, text_tokens, trie_nodes)
    rows = [PartCost(part, parameters[part], 2 * parameters[part], flops[part]) for part in PARTS]
    return [*rows, PartCost(TOTAL, parameters.total(), 2 * parameters.total(), sum(flops.values()))]


def part_parameters(model: AGVAS) -> Counter[str]:
    """Parameters of every part; shared ones once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[next(part for part, beginnings in PARTS.items() if name.startswith(beginnings))] += parameter.numel()
    return counts


def _part_flops(model: AGVAS, config: ModelConfig, text_tokens: int, trie_nodes: int) -> dict[str, int]:
    width, prompt = config.hidden_size, config.visual_tokens + text_tokens
    views = [
        torch.empty(1, 3, view.size, view.size, device="meta") for view in (config.semantic_view, config.pixel_view)
    ]
    semantic = torch.empty(1, config.semantic_tokens, width, device="meta")
    hidden = torch.empty(1, config.semantic_tokens, int(config.semantic["hidden_size"]), device="meta")
    pixel = torch.empty(1, config.pixel_channels, config.grid, config.grid, device="meta")
    states = torch.empty(1, 1 + trie_nodes, width, device="meta")
    anchors = torch.empty(1, len(ANCHORS), width, device="meta")
    projector = _flops(model.llava.model.multi_modal_projector, hidden)
    return {
        "semantic_encoder": _flops(model.semantic_features, views[0]) - projector,
        "projector": projector,
        "pixel_encoder": _flops(model.pixel_features, views[1]),
        "spam": _flops(model.spam, semantic, pixel),
        "token_embeddings": 0,  # a table look-up
        "language_model": _language_flops(model, config, prompt, trie_nodes),
        "output_head": _flops(model.logits, states),
        "mask_decoder": _flops(model.products, anchors, pixel, ANCHORS),
    }


def _language_flops(model: AGVAS, config: ModelConfig, prompt: int, nodes: int) -> int:
    """The layers on prompt and trie, where the prompt attends causally, hence to half of its square."""
    rows = prompt + nodes
    embeds = torch.empty(1, rows, config.hidden_size, device="meta")
    # transformers inspects the positions' values to make a mask of its own, and "meta" has no values
    mask = torch.empty(1, 1, rows, rows, dtype=torch.bool, device="meta")
    counted = _flops(lambda: model.hidden_states(embeds, mask=mask))
    per_pair = 4 * config.hidden_size * int(config.language["num_hidden_layers"])  # q k' and its product with v
    return counted - per_pair * rows**2 + per_pair * (prompt**2 // 2 + nodes * rows)


@torch.no_grad()
def _flops(function: Callable[..., Tensor], *inputs: object) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*inputs)
    return int(counter.get_total_flops())
