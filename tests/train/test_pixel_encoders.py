"""Every pixel encoder of Table A.2: sizes, shapes, what is trained, and the exported graph."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agvas_export.graphs import Graph, PixelEncoderGraph
from agvas_export.onnx_graph import WeightFiles, onnx_graph
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import InputError
from agvas_train.model import AGVAS, PRESETS, ModelConfig, build_agvas
from agvas_train.model.pixel_encoders import (
    CLASSES,
    PIXEL_ENCODERS,
    build_pixel_encoder,
    feature_map,
    pixel_encoder_name,
    with_pixel_encoder,
)

NAMES = sorted(PIXEL_ENCODERS)
GRID = 5


def reduced(name: str, **changes: Any) -> ModelConfig:
    """The tiny preset with a named encoder of reduced width: two layers, 5 x 5 patches (SAM: windows of 3)."""
    encoder = PIXEL_ENCODERS[name]
    small = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": GRID * encoder.fields["patch_size"],
        "global_attn_indexes": [1],
        "window_size": 3,
        "output_channels": 64,
    }
    fields = {**encoder.fields, **{key: value for key, value in small.items() if key in encoder.fields}, **changes}
    view = encoder.view.model_copy(update={"size": fields["image_size"]})
    parts = {"pixel_encoder": encoder.kind, "pixel": fields, "pixel_view": view.model_dump()}
    return ModelConfig.model_validate({**PRESETS["tiny"](300).model_dump(), **parts})


# SAM's three sizes are one when reduced
DISTINCT = list({reduced(name).model_dump_json(): name for name in NAMES}.values())


@pytest.fixture(scope="module", params=DISTINCT)
def case(request: pytest.FixtureRequest) -> tuple[AGVAS, ModelConfig]:
    config = reduced(request.param)
    torch.manual_seed(0)
    return build_agvas(config), config


def pixels_of(config: ModelConfig, count: int = 1) -> torch.Tensor:
    size = config.pixel_view.size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_features_are_a_map_of_the_mask_decoders_channels(case: tuple[AGVAS, ModelConfig]) -> None:
    model, config = case
    features = model.pixel_features(pixels_of(config, 2))
    assert config.grid == GRID
    assert features.shape == (2, config.pixel_channels, GRID, GRID)
    assert features.std() > 0.1
    products = model.products(torch.randn(2, 3, config.hidden_size), features, (0, 1, 2))
    assert products.shape == (2, 3, 4 * GRID, 4 * GRID)


@torch.no_grad()
@pytest.mark.parametrize(("name", "prefix"), [("clip-vit-l-14-336", 1), ("dinov2-vit-g-14", 1), ("dinov3-vit-h-16", 5)])
def test_class_and_register_tokens_are_dropped(name: str, prefix: int) -> None:
    config = reduced(name)
    encoder = build_pixel_encoder(config).eval()
    hidden = encoder(pixels_of(config)).last_hidden_state
    assert hidden.shape[1] == prefix + GRID**2
    rows = feature_map(encoder, pixels_of(config))[0].flatten(1).T
    torch.testing.assert_close(rows, hidden[0, prefix:])


def test_training_reaches_the_projection_and_leaves_a_frozen_encoder(case: tuple[AGVAS, ModelConfig]) -> None:
    model, config = case
    model.requires_grad_(True)
    model.pixel_encoder.requires_grad_(False)
    visual = model.encode(torch.randn(1, 3, 96, 96), pixels_of(config))
    (visual.tokens.sum() + model.products(visual.tokens[:, :3], visual.pixel, (0, 1, 2)).sum()).backward()
    trained = list(model.pixel_projection.parameters())
    assert len(trained) == (0 if config.pixel_encoder == "sam" else 2)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    assert all(p.grad is None for p in model.pixel_encoder.parameters())
    model.zero_grad()


def test_gradients_pass_through_every_layer_of_an_encoder_that_is_trained(case: tuple[AGVAS, ModelConfig]) -> None:
    model, config = case
    model.requires_grad_(True)
    weights = torch.randn(model.pixel_features(pixels_of(config)).shape, generator=torch.Generator().manual_seed(0))
    (model.pixel_features(pixels_of(config)) * weights).sum().backward()
    reached = [name for name, p in model.pixel_encoder.named_parameters() if p.grad is not None and p.grad.any()]
    layers = {name.split("layer")[1].split(".")[1] for name in reached if ".mlp." in name and "layer" in name}
    assert len(layers) == config.pixel["num_hidden_layers"]
    assert any("patch_embed" in name for name in reached)
    model.zero_grad()


@torch.no_grad()
def test_the_exported_graph_computes_the_same(case: tuple[AGVAS, ModelConfig], tmp_path: Path) -> None:
    model, config = case
    expected = model.pixel_features(pixels_of(config))
    graph = Graph(
        "pixel_encoder",
        PixelEncoderGraph(model, config.pixel_encoder),
        lambda pixels: (model.pixel_features(pixels),),
        {"pixels": torch.zeros(2, *pixels_of(config).shape[1:])},
        ("features",),
        {"pixels": {0: "B"}},
    )
    WeightFiles(tmp_path).write("pixel_encoder", onnx_graph(graph))
    found = OrtEngine(tmp_path / "pixel_encoder.onnx").run({"pixels": pixels_of(config).numpy()})["features"]
    assert abs(found - expected.numpy()).max() <= 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(model.pixel_features(pixels_of(config)), expected)  # tracing left nothing behind


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("sam-vit-b", 89.7),
        ("sam-vit-l", 308.3),
        ("sam-vit-h", 637.0),
        ("sam-ft-vit-h", 637.0),
        ("clip-vit-l-14-336", 303.5),
        ("siglip-vit-l-384", 303.7),
        ("dinov2-vit-l-14", 304.4),
        ("dinov2-vit-g-14", 1136.5),
        ("dinov3-vit-h-16", 840.6),
    ],
)
def test_full_size_encoders_are_the_released_ones(name: str, millions: float) -> None:
    config = with_pixel_encoder(PRESETS["7b"](), name)
    with torch.device("meta"):
        encoder = build_pixel_encoder(config)
        configuration, network = CLASSES[config.pixel_encoder]
        alone = network(configuration(**PIXEL_ENCODERS[name].fields))
    assert shapes(encoder) == shapes(alone)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def shapes(module: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def test_every_name_has_a_full_size_count() -> None:
    (counts,) = (m for m in test_full_size_encoders_are_the_released_ones.pytestmark if m.name == "parametrize")
    assert sorted(name for name, _ in counts.args[1]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_one_name_gives_a_preset_another_encoder(name: str) -> None:
    config = with_pixel_encoder(PRESETS["0.5b"](), name)
    assert (config.preset, pixel_encoder_name(config)) == ("0.5b", name)
    assert config.pixel_view == PIXEL_ENCODERS[name].view
    assert config.grid == {336: 24, 384: 24, 518: 37, 1024: 64}[config.pixel_view.size]
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_presets_take_their_encoders_from_the_table() -> None:
    assert pixel_encoder_name(PRESETS["0.5b"]()) == "sam-vit-b"
    assert pixel_encoder_name(PRESETS["7b"]()) == "sam-vit-h"
    assert pixel_encoder_name(PRESETS["tiny"](300)) == "conv"


def test_an_unknown_name_gets_a_suggestion_and_the_list() -> None:
    with pytest.raises(InputError, match=r"dinov2-vit-l: did you mean dinov2-vit-l-14\? expected one of sam-vit-b, "):
        with_pixel_encoder(PRESETS["7b"](), "dinov2-vit-l")
    with pytest.raises(InputError, match="pixel encoder vgg: expected one of sam-vit-b, "):
        with_pixel_encoder(PRESETS["7b"](), "vgg")


def test_unprojected_features_must_fit_the_mask_decoder() -> None:
    with pytest.raises(InputError, match=r"tiny with sam-vit-b: pixel.output_channels is 256, must equal .* 64$"):
        with_pixel_encoder(PRESETS["tiny"](300), "sam-vit-b")
    assert with_pixel_encoder(PRESETS["tiny"](300), "sam-ft-vit-h").grid == 64


def test_encoder_and_view_must_agree() -> None:
    with pytest.raises(ValueError, match=r"pixel\.image_size is 80, must equal pixel_view.size, 288"):
        ModelConfig.model_validate({**reduced("sam-vit-b").model_dump(), "pixel_view": PRESETS["tiny"](300).pixel_view})
    with pytest.raises(ValueError, match=r"pixel\.patch_size is 13, must divide pixel.image_size, 80"):
        reduced("siglip-vit-l-384", patch_size=13)
