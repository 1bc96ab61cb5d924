"""The pixel encoders of the paper's Table A.2: their sizes, their classes in the transformers library, their features.

How their weights are named in the files that users hold is not known here: see `weights/pixel.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedConfig,
    PreTrainedModel,
    SamVisionConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.sam.modeling_sam import SamVisionEncoder

from agvas_runtime.errors import InputError
from agvas_runtime.preprocess import RGB, PixelView
from agvas_train.model.config import ModelConfig, PixelKind
from agvas_train.model.conv_encoder import ConvEncoder, ConvEncoderConfig

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# SAM's own constants are these on the 0..255 scale, rounded to three decimals
SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)

CLASSES: dict[PixelKind, tuple[type[PreTrainedConfig], type[PreTrainedModel]]] = {
    "sam": (SamVisionConfig, SamVisionEncoder),
    "sam-ft": (SamVisionConfig, SamVisionEncoder),
    "clip": (CLIPVisionConfig, CLIPVisionModel),
    "siglip": (SiglipVisionConfig, SiglipVisionModel),
    "dinov2": (Dinov2Config, Dinov2Model),
    "dinov3": (DINOv3ViTConfig, DINOv3ViTModel),
    "conv": (ConvEncoderConfig, ConvEncoder),
}
"""Configuration and network of each kind."""


@dataclass(frozen=True)
class PixelEncoder:
    """One encoder by name.

    Attributes:
        fields: what `ModelConfig.pixel` holds, fields of the kind's configuration class.
        view: its input size and its own normalisation.
    """

    kind: PixelKind
    fields: Mapping[str, Any]
    view: PixelView


def _encoder(kind: PixelKind, fields: dict[str, Any], mean: RGB, std: RGB) -> PixelEncoder:
    return PixelEncoder(kind, fields, PixelView(size=fields["image_size"], mean=mean, std=std))


def _sam(width: int, layers: int, heads: int, every: int, kind: PixelKind = "sam") -> PixelEncoder:
    """Segment Anything: every `every`-th layer attends globally, the others within windows."""
    fields = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "global_attn_indexes": list(range(every - 1, layers, every)),
        "output_channels": 256,
        "image_size": 1024,
        "patch_size": 16,
        "window_size": 14,
        "initializer_range": 0.02,  # the library's 1e-10 makes fresh weights vanish
    }
    return _encoder(kind, fields, SAM_MEAN, SAM_STD)


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
# the mask token serves pre-training alone
DINOV2 = {"image_size": 518, "patch_size": 14, "use_mask_token": False}

PIXEL_ENCODERS: dict[str, PixelEncoder] = {
    "sam-vit-b": _sam(768, 12, 12, every=3),
    "sam-vit-l": _sam(1024, 24, 16, every=6),
    "sam-vit-h": _sam(1280, 32, 16, every=8),
    # "a linear layer is appended to the encoder output and fine-tuned" (section C.1)
    "sam-ft-vit-h": _sam(1280, 32, 16, every=8, kind="sam-ft"),
    "clip-vit-l-14-336": _encoder(
        "clip", {**LARGE, "intermediate_size": 4096, "image_size": 336, "patch_size": 14}, CLIP_MEAN, CLIP_STD
    ),
    # Table A.2 writes ViT-L-14-384; the only SigLIP ViT-L at 384 that was released has patches of 16
    "siglip-vit-l-384": _encoder(
        "siglip",
        {**LARGE, "intermediate_size": 4096, "image_size": 384, "patch_size": 16, "vision_use_head": False},
        HALF,
        HALF,
    ),
    "dinov2-vit-l-14": _encoder("dinov2", {**LARGE, **DINOV2}, IMAGENET_MEAN, IMAGENET_STD),
    "dinov2-vit-g-14": _encoder(
        "dinov2",
        {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True, **DINOV2},
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
    # released as ViT-H+/16. It has no table of positions and takes any size; 1024, SAM's, is ours
    "dinov3-vit-h-16": _encoder(
        "dinov3",
        {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "num_register_tokens": 4,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "image_size": 1024,
            "patch_size": 16,
        },
        IMAGENET_MEAN,
        IMAGENET_STD,
    ),
}
"""Every pixel encoder of Table A.2, and SAM's smaller ones."""


def with_pixel_encoder(config: ModelConfig, name: str) -> ModelConfig:
    """The same model with another pixel encoder.

    Raises:
        InputError: no encoder has that name, or its features do not fit the model's mask decoder.
    """
    if name not in PIXEL_ENCODERS:
        close = get_close_matches(name, PIXEL_ENCODERS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"pixel encoder {name}: {hint}expected one of {', '.join(PIXEL_ENCODERS)}")
    chosen = PIXEL_ENCODERS[name]
    parts = {"pixel_encoder": chosen.kind, "pixel": dict(chosen.fields), "pixel_view": chosen.view.model_dump()}
    try:
        return ModelConfig.model_validate({**config.model_dump(), **parts})
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"preset {config.preset} with {name}: {reason}") from None


def pixel_encoder_name(config: ModelConfig) -> str:
    """The name of a model's pixel encoder in PIXEL_ENCODERS; of one that is not there, its kind."""
    for name, encoder in PIXEL_ENCODERS.items():
        if encoder.kind == config.pixel_encoder and encoder.fields == config.pixel:
            return name
    return config.pixel_encoder


def build_pixel_encoder(config: ModelConfig) -> PreTrainedModel:
    """The library's network with fresh weights, on the current default device (also "meta")."""
    configuration, network = CLASSES[config.pixel_encoder]
    return network(configuration(**config.pixel))


def feature_width(encoder: PreTrainedModel) -> int:
    """W, the channels of an encoder's feature map."""
    return int(getattr(encoder.config, "output_channels", encoder.config.hidden_size))


def feature_map(encoder: PreTrainedModel, pixels: Tensor) -> Tensor:
    """The library's last hidden state of images [B, 3, P, P] as a map of patches [B, W, g, g].

    Which layer the paper reads it leaves open; ours is what each class calls its last hidden state: behind SAM's neck
    and the closing norm of SigLIP and DINO; CLIP's closing norm is for its class token alone and stays out.
    """
    hidden = encoder(pixels).last_hidden_state
    if hidden.ndim == 4:  # SAM's neck gives a map already, convolutions do
        return hidden
    grid = pixels.shape[-1] // int(encoder.config.patch_size)
    patches = hidden[:, -grid * grid :]  # class and register tokens come first
    return patches.transpose(1, 2).unflatten(2, (grid, grid))
