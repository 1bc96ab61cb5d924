"""Parameters and arithmetic of every part, against the library's own classes, hand formulas and the known figures."""

import resource

import pytest
import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model, SamVisionConfig, SiglipVisionConfig, SiglipVisionModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from agvas_train.model import PRESETS, build_agvas
from agvas_train.model.cost import PARTS, PartCost, model_cost
from agvas_train.model.pixel_encoders import with_pixel_encoder

TEXT_TOKENS = 47
"""With 1,459 visual tokens: a prompt of 1,506."""


def by_part(preset: str, **options: int) -> dict[str, PartCost]:
    config = PRESETS[preset]()
    return {cost.part: cost for cost in model_cost(config, text_tokens=TEXT_TOKENS, **options)}


@pytest.fixture(scope="module")
def seven() -> dict[str, PartCost]:
    return by_part("7b")


@pytest.fixture(scope="module")
def half() -> dict[str, PartCost]:
    return by_part("0.5b")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("part", "teraflops", "tolerance"),
    [
        ("pixel_encoder", 5.96, 0.02),
        ("semantic_encoder", 0.64, 0.02),
        ("language_model", 20.1, 0.02),
        ("projector", 0.025, 0.05),
        ("spam", 0.10, 0.05),
        ("mask_decoder", 0.004, 0.13),  # known to one digit only: 0.0037
    ],
)
def test_7b_has_the_known_arithmetic(seven: dict[str, PartCost], part: str, teraflops: float, tolerance: float) -> None:
    assert seven[part].flops / 1e12 == pytest.approx(teraflops, rel=tolerance)


def test_7b_in_all(seven: dict[str, PartCost]) -> None:
    assert seven["total"].parameters / 1e9 == pytest.approx(8.70, rel=0.005)
    assert seven["total"].bytes_bf16 / 2**30 == pytest.approx(16.2, rel=0.005)
    with_answers = by_part("7b", trie_nodes=29)["total"]
    assert with_answers.flops / 1e12 == pytest.approx(27.2, rel=0.01)
    language = sum(seven[part].parameters for part in ("token_embeddings", "language_model", "output_head"))
    assert language / 1e9 == pytest.approx(7.616, rel=0.001)


def test_half_b_has_the_known_figures(half: dict[str, PartCost]) -> None:
    assert half["pixel_encoder"].flops / 1e12 == pytest.approx(0.97, rel=0.02)
    assert half["total"].flops / 1e12 == pytest.approx(2.85, rel=0.02)
    assert half["total"].parameters / 1e9 == pytest.approx(0.99, rel=0.005)
    assert half["total"].bytes_bf16 / 2**30 == pytest.approx(1.84, rel=0.005)
    assert half["output_head"].parameters == 0  # tied: counted with the token embeddings


def test_a_trie_adds_its_rows_and_their_logits(seven: dict[str, PartCost]) -> None:
    """199 nodes are known to cost 15 % of the language model's pass, their logits included."""
    more = by_part("7b", trie_nodes=199)
    parts = ("language_model", "output_head")
    assert sum(more[p].flops for p in parts) / sum(seven[p].flops for p in parts) == pytest.approx(1.15, abs=0.01)
    assert more["output_head"].flops == 200 * seven["output_head"].flops
    assert more["pixel_encoder"] == seven["pixel_encoder"]


@pytest.mark.parametrize("preset", ["7b", "0.5b"])
def test_parameters_are_those_of_the_librarys_own_classes(preset: str, request: pytest.FixtureRequest) -> None:
    cost = request.getfixturevalue({"7b": "seven", "0.5b": "half"}[preset])
    config = PRESETS[preset]()
    with torch.device("meta"):
        siglip = SiglipVisionModel(SiglipVisionConfig(**config.semantic, vision_use_head=False))
        sam, qwen = SamVisionEncoder(SamVisionConfig(**config.pixel)), Qwen2Model(Qwen2Config(**config.language))
    assert cost["semantic_encoder"].parameters == count(siglip)
    assert cost["pixel_encoder"].parameters == count(sam)
    assert cost["token_embeddings"].parameters + cost["language_model"].parameters == count(qwen)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_belongs_to_one_part(preset: str) -> None:
    cost = by_part(preset)
    config = PRESETS[preset]()
    with torch.device("meta"):
        model = build_agvas(config)
    assert list(cost) == [*PARTS, "total"]
    assert cost["total"].parameters == count(model) == sum(cost[part].parameters for part in PARTS)
    assert cost["total"].flops == sum(cost[part].flops for part in PARTS)
    assert all(part.bytes_bf16 == 2 * part.parameters for part in cost.values())


def test_the_language_models_arithmetic_is_the_hand_formula() -> None:
    """Tiny: d = 128, 3 layers, MLP 256, 2 of 4 heads hold keys and values; 47 text, 73 visual tokens, 10 nodes."""
    cost = by_part("tiny", trie_nodes=10)
    d, layers, mlp, key_value = 128, 3, 256, 64
    prompt, nodes = 73 + TEXT_TOKENS, 10
    weights = layers * (2 * d * d + 2 * d * key_value + 3 * d * mlp)
    attention = 4 * d * layers * (prompt**2 // 2 + nodes * (prompt + nodes))
    assert cost["language_model"].flops == 2 * (prompt + nodes) * weights + attention
    assert cost["output_head"].flops == 2 * (1 + nodes) * d * 1536


def test_the_semantic_encoders_arithmetic_is_the_hand_formula() -> None:
    """Tiny: 36 patches of 16 x 16 x 3, width 96, 3 layers, MLP 192; then two linear layers to 128."""
    cost = by_part("tiny")
    n, width, layers, mlp = 36, 96, 3, 192
    weights = 3 * 16 * 16 * width + layers * (4 * width * width + 2 * width * mlp)
    assert cost["semantic_encoder"].flops == 2 * n * weights + layers * 4 * n * n * width
    assert cost["projector"].flops == 2 * n * (width * 128 + 128 * 128)


@pytest.mark.parametrize("name", ["sam-ft-vit-h", "clip-vit-l-14-336", "dinov2-vit-g-14", "dinov3-vit-h-16"])
def test_other_pixel_encoders_are_counted_too(name: str) -> None:
    """Every token passes nearly every weight once; attention comes on top."""
    config = with_pixel_encoder(PRESETS["0.5b"](), name)
    cost = {part.part: part for part in model_cost(config, text_tokens=TEXT_TOKENS)}["pixel_encoder"]
    assert 1 <= cost.flops / (2 * cost.parameters * config.grid**2) < 1.5


def test_no_weight_is_allocated() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    by_part("7b")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**28  # of 16 GiB


def test_costs_are_plain_numbers(half: dict[str, PartCost]) -> None:
    assert half["spam"].as_json() == {
        "part": "spam",
        "parameters": 2_067_968,
        "bytes_bf16": 4_135_936,
        "flops": half["spam"].flops,
    }
