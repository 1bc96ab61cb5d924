"""Pixel encoder weights from what users hold: official SAM files and folders of the hub, and what is refused."""

import json
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Model,
    DINOv3ViTModel,
    PreTrainedModel,
    SamConfig,
    SamModel,
    SiglipConfig,
    SiglipModel,
)

from agvas_runtime.errors import InputError
from agvas_train.model import AGVAS, PRESETS, ModelConfig, build_agvas
from agvas_train.model.pixel_encoders import CLASSES, build_pixel_encoder, with_pixel_encoder
from agvas_train.weights import pixel
from agvas_train.weights.pixel import pixel_encoder_tensors

from .sam import import_segment_anything
from .test_pixel_encoders import pixels_of, reduced

if "segment_anything" not in sys.modules:
    import_segment_anything()
from segment_anything.modeling.image_encoder import ImageEncoderViT

SAM_IN_THE_LIBRARY = {
    "patch_embed.proj.": "patch_embed.projection.",
    "blocks.": "layers.",
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    "neck.0.": "neck.conv1.",
    "neck.1.": "neck.layer_norm1.",
    "neck.2.": "neck.conv2.",
    "neck.3.": "neck.layer_norm2.",
}


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter drawn, position tables too, wide enough that no branch vanishes."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            scale = 0.1 if parameter.ndim > 1 or name.endswith("bias") else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.add_(1)
    return module.eval()


@pytest.fixture(scope="module")
def sam() -> ImageEncoderViT:
    """segment-anything's own encoder at the reduced size."""
    encoder = ImageEncoderViT(
        depth=2,
        embed_dim=48,
        img_size=80,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=3,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[1],
        window_size=3,
        out_chans=64,
    )
    return randomised(encoder)


def official_file(encoder: ImageEncoderViT, folder: Path) -> Path:
    """A file as segment-anything publishes it, mask decoder and all."""
    rest = {
        "prompt_encoder.no_mask_embed.weight": torch.zeros(1, 64),
        "mask_decoder.iou_token.weight": torch.ones(1, 64),
    }
    torch.save({**{f"image_encoder.{k}": v for k, v in encoder.state_dict().items()}, **rest}, folder / "sam_vit_x.pth")
    return folder / "sam_vit_x.pth"


def hub_folder(encoder: ImageEncoderViT, folder: Path) -> Path:
    """The same encoder in a SamModel, as the hub holds it."""
    fields = reduced("sam-vit-b").pixel
    decoder = {"hidden_size": 64, "mlp_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = SamModel(
        SamConfig(vision_config=fields, prompt_encoder_config={"hidden_size": 64}, mask_decoder_config=decoder)
    )
    renamed = {}
    for name, tensor in encoder.state_dict().items():
        for theirs, library in SAM_IN_THE_LIBRARY.items():
            name = name.replace(theirs, library)
        renamed[name] = tensor
    model.vision_encoder.load_state_dict(renamed)
    model.save_pretrained(folder / "sam-hub")
    return folder / "sam-hub"


def loaded(config: ModelConfig, source: Path) -> AGVAS:
    """A model with the pixel encoder of a source, and nothing but it."""
    model = build_agvas(config)
    tensors = {name: lazy.read() for name, lazy in pixel_encoder_tensors(config, source).items()}
    assert set(tensors) == {name for name in model.state_dict() if name.startswith("pixel_encoder.")}
    model.load_state_dict(tensors, strict=False)
    return model


@torch.no_grad()
@pytest.mark.parametrize("write", [official_file, hub_folder])
def test_sam_computes_what_segment_anything_computes(
    sam: ImageEncoderViT, write: Callable[[ImageEncoderViT, Path], Path], tmp_path: Path
) -> None:
    config = reduced("sam-vit-b")
    expected = sam(pixels_of(config))
    assert expected.std() > 0.3
    found = loaded(config, write(sam, tmp_path)).pixel_features(pixels_of(config))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def whole_model(name: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """What the hub holds of an encoder, at the reduced size: the whole model and the image encoder in it."""
    config = reduced(name)
    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 99,
    }
    fields = {key: value for key, value in config.pixel.items() if key not in ("vision_use_head", "use_mask_token")}
    if config.pixel_encoder == "clip":
        model = CLIPModel(CLIPConfig(vision_config=fields, text_config=text))
    elif config.pixel_encoder == "siglip":
        model = SiglipModel(SiglipConfig(vision_config=fields, text_config=text))
    else:
        alone = {"dinov2": Dinov2Model, "dinov3": DINOv3ViTModel}[config.pixel_encoder]
        model = alone(CLASSES[config.pixel_encoder][0](**fields))
    randomised(model)
    return model, getattr(model, "vision_model", model)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("clip-vit-l-14-336", 1),
        ("siglip-vit-l-384", 0),
        ("dinov2-vit-l-14", 1),
        ("dinov2-vit-g-14", 1),
        ("dinov3-vit-h-16", 5),
    ],
)
def test_hub_folders_compute_what_the_library_computes(name: str, prefix: int, tmp_path: Path) -> None:
    config = reduced(name)
    whole, encoder = whole_model(name)
    whole.save_pretrained(tmp_path / "hub")
    patches = encoder(pixels_of(config)).last_hidden_state[0, prefix:]
    assert patches.std() > 0.3
    model = loaded(config, tmp_path / "hub")
    model.pixel_projection = nn.Identity()
    found = model.pixel_features(pixels_of(config))[0].flatten(1).T
    torch.testing.assert_close(found, patches, rtol=0, atol=1e-5 * float(patches.abs().max()))


def test_the_fine_tuned_variant_reads_the_same_files(sam: ImageEncoderViT, tmp_path: Path) -> None:
    source = official_file(sam, tmp_path)
    plain, tuned = (pixel_encoder_tensors(reduced(name), source) for name in ("sam-vit-h", "sam-ft-vit-h"))
    assert plain.keys() == tuned.keys()


def test_tensors_keep_the_place_they_come_from(sam: ImageEncoderViT, tmp_path: Path) -> None:
    source = official_file(sam, tmp_path)
    tensor = pixel_encoder_tensors(reduced("sam-vit-b"), source)["pixel_encoder.neck.layer_norm2.bias"]
    assert tensor.origin is not None
    assert (tensor.origin.file, tensor.origin.name) == (source, "image_encoder.neck.3.bias")


def test_halves_of_a_joint_tensor_are_computed(tmp_path: Path) -> None:
    whole, _ = whole_model("dinov2-vit-g-14")
    whole.save_pretrained(tmp_path / "hub")
    tensors = pixel_encoder_tensors(reduced("dinov2-vit-g-14"), tmp_path / "hub")
    joint = load_file(tmp_path / "hub" / "model.safetensors")["encoder.layer.1.mlp.weights_in.weight"]
    gate, up = (tensors[f"pixel_encoder.encoder.layer.1.mlp.{part}_proj.weight"] for part in ("gate", "up"))
    assert gate.origin is None
    assert torch.equal(torch.cat((gate.read(), up.read())), joint)


def test_a_module_that_nests_its_vision_model_takes_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Releases of the library differ in this; our names are those of the module that is built."""
    whole, _ = whole_model("siglip-vit-l-384")
    whole.save_pretrained(tmp_path / "hub")
    plain = pixel_encoder_tensors(reduced("siglip-vit-l-384"), tmp_path / "hub")

    def nested(config: ModelConfig) -> nn.Module:
        return nn.ModuleDict({"vision_model": build_pixel_encoder(config)})

    monkeypatch.setattr(pixel, "build_pixel_encoder", nested)
    found = pixel_encoder_tensors(reduced("siglip-vit-l-384"), tmp_path / "hub")
    assert [name.replace("pixel_encoder.", "pixel_encoder.vision_model.") for name in plain] == list(found)


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("image_encoder.blocks.1.attn.qkv.bias"),
            r"sam_vit_x.pth: no tensor for pixel_encoder.layers.1.attn.qkv.bias, which preset tiny with sam expects "
            r"with shape \(144,\)$",
        ),
        (
            lambda t: t.update({"image_encoder.blocks.0.scale": torch.ones(3)}),
            r"sam_vit_x.pth: image_encoder.blocks.0.scale is unexpected, preset tiny with sam has no such tensor$",
        ),
        (
            lambda t: t.update({"image_encoder.pos_embed": torch.ones(1, 4, 4, 48)}),
            r"sam_vit_x.pth: image_encoder.pos_embed has shape \(1, 4, 4, 48\), preset tiny with sam expects "
            r"\(1, 5, 5, 48\)$",
        ),
        (
            lambda t: t.update({"image_encoder.neck.3.bias": torch.ones(64, dtype=torch.int8)}),
            r"sam_vit_x.pth: image_encoder.neck.3.bias holds torch.int8, expected floating point$",
        ),
        (
            lambda t: t.update({"vision_encoder.pos_embed": torch.ones(1, 5, 5, 48)}),
            r"sam_vit_x.pth: holds pixel encoders side by side, vision_encoder.pos_embed is there under another name",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if "image_encoder" in name],
            r"sam_vit_x.pth: no sam image encoder, what it holds is empty; preset tiny with sam needs one$",
        ),
    ],
)
def test_every_tensor_must_fit(sam: ImageEncoderViT, change: Change, message: str, tmp_path: Path) -> None:
    source = official_file(sam, tmp_path)
    tensors = torch.load(source)
    change(tensors)
    torch.save(tensors, source)
    with pytest.raises(InputError, match=message):
        pixel_encoder_tensors(reduced("sam-vit-b"), source)


def test_another_size_of_the_encoder_is_told_by_its_sizes(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = build_pixel_encoder(PRESETS["0.5b"]()).state_dict()
    empty = torch.zeros(1)  # one number stands for all: the file stays small
    base = {f"vision_encoder.{name}": empty.expand(tensor.shape) for name, tensor in shapes.items()}
    torch.save(base, tmp_path / "sam_vit_b.pth")
    message = (
        r"sam_vit_b.pth: holds an encoder of 12 layers of width 768 \(sam-vit-b\), "
        r"preset 7b with sam-vit-h expects 32 layers of width 1280$"
    )
    with pytest.raises(InputError, match=message):
        pixel_encoder_tensors(PRESETS["7b"](), tmp_path / "sam_vit_b.pth")


def test_another_kind_of_encoder_is_told_by_what_it_holds(sam: ImageEncoderViT, tmp_path: Path) -> None:
    source = official_file(sam, tmp_path)
    message = (
        r"no dinov2 image encoder, what it holds begins with image_encoder.pos_embed; preset 7b with dinov2-vit-l-14"
    )
    with pytest.raises(InputError, match=message):
        pixel_encoder_tensors(with_pixel_encoder(PRESETS["7b"](), "dinov2-vit-l-14"), source)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("clip-vit-l-14-336", {"vision_config": {"num_attention_heads": 2}}, "num_attention_heads is 2, .* expects 3$"),
        (
            "clip-vit-l-14-336",
            {"vision_config_dict": {"hidden_act": "gelu"}},
            "hidden_act is gelu, .* expects quick_gelu$",
        ),
        (
            "dinov2-vit-l-14",
            {"layer_norm_eps": 1e-5},
            "layer_norm_eps is 1e-05, preset tiny with dinov2 expects 1e-06$",
        ),
        ("dinov2-vit-l-14", {"num_attention_heads": None}, "num_attention_heads is 12, .* expects 3$"),
        ("dinov2-vit-l-14", {"model_type": "vit"}, "model_type is vit, preset tiny with dinov2 expects dinov2$"),
    ],
)
def test_the_folders_configuration_must_not_contradict(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    whole, _ = whole_model(name)
    whole.save_pretrained(tmp_path / "hub")
    file = tmp_path / "hub" / "config.json"
    held = json.loads(file.read_text())
    for key, value in change.items():
        held[key] = {**held.get(key, {}), **value} if isinstance(value, dict) else value
    file.write_text(json.dumps(held))
    with pytest.raises(InputError, match=rf"config\.json: {message}"):
        pixel_encoder_tensors(reduced(name), tmp_path / "hub")
    file.write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: not a readable configuration"):
        pixel_encoder_tensors(reduced(name), tmp_path / "hub")


def test_dinov3_folders_may_name_another_image_size(tmp_path: Path) -> None:
    whole, _ = whole_model("dinov3-vit-h-16")
    whole.config.image_size = 224  # as released
    whole.save_pretrained(tmp_path / "hub")
    assert pixel_encoder_tensors(reduced("dinov3-vit-h-16"), tmp_path / "hub")


def test_old_folders_with_stored_positions_are_taken(tmp_path: Path) -> None:
    whole, _ = whole_model("clip-vit-l-14-336")
    whole.save_pretrained(tmp_path / "hub")
    file = tmp_path / "hub" / "model.safetensors"
    positions = {"vision_model.embeddings.position_ids": torch.arange(26)[None]}
    save_file({**load_file(file), **positions}, file, metadata={"format": "pt"})
    assert "pixel_encoder.post_layernorm.weight" in pixel_encoder_tensors(
        reduced("clip-vit-l-14-336"), tmp_path / "hub"
    )


class Code:
    """What runs when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    torch.save({"image_encoder.pos_embed": Code(trace)}, tmp_path / "sam_vit_b.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"image_encoder.pos_embed": Code(trace)}))
    for name in ("sam_vit_b.pth", "plain.pth"):
        with pytest.raises(InputError, match=f"{name}: not a plain file of weights"):
            pixel_encoder_tensors(PRESETS["0.5b"](), tmp_path / name)
    assert not trace.exists()
