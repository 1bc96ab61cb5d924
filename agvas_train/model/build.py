"""The sizes of every preset, and how a model is built from them; the pixel encoders' stand in `pixel_encoders.py`."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from agvas_runtime.preprocess import PixelView, SemanticView
from agvas_train.model.agmd import AGMD
from agvas_train.model.agvas import AGVAS
from agvas_train.model.config import AS_THEY_ARE, AgmdConfig, ModelConfig
from agvas_train.model.pixel_encoders import HALF, PIXEL_ENCODERS, SAM_MEAN, SAM_STD, build_pixel_encoder, feature_width
from agvas_train.model.spam import SPAM
from agvas_train.model.token_refiner import TokenRefiner
from agvas_train.model.transformer import TwoWayTransformer

SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
QWEN2 = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}, "max_position_embeddings": 32768}


def tiny(vocabulary_size: int = 1536) -> ModelConfig:
    """The embedded default: trained from scratch, 1.5 GFLOP a frame with the trie's nodes."""
    return ModelConfig(
        preset="tiny",
        semantic={
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 96,
            "patch_size": 16,
        },
        pixel_encoder="conv",
        pixel={"image_size": 288, "patch_size": 8, "output_channels": 64, "fine": True},
        language={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": vocabulary_size,
            "max_position_embeddings": 2048,
            "initializer_range": 0.05,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        agmd=AgmdConfig(transformer_dim=64, heads=4, mlp_dim=256),
        spam_heads=4,
        spam_places=True,
        semantic_view=SemanticView(size=96, mean=HALF, std=HALF),
        pixel_view=PixelView(size=288, mean=SAM_MEAN, std=SAM_STD, mirror=True),
    )


def _large(preset: str, *, pixel_encoder: str, language: dict[str, object], spam_heads: int) -> ModelConfig:
    pixel = PIXEL_ENCODERS[pixel_encoder]
    return ModelConfig(
        preset=preset,
        semantic=dict(SIGLIP_SO400M),
        pixel_encoder=pixel.kind,
        pixel=dict(pixel.fields),
        language={**QWEN2, **language},
        spam_heads=spam_heads,
        semantic_view=SemanticView(size=384, mean=HALF, std=HALF),
        pixel_view=pixel.view,
    )


def half_b(vocabulary_size: int = 152_000) -> ModelConfig:
    """LLaVA-OneVision 0.5B with SAM ViT-B, for edge GPUs."""
    return _large(
        "0.5b",
        pixel_encoder="sam-vit-b",
        language={
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": vocabulary_size,
            "tie_word_embeddings": True,
        },
        spam_heads=7,
    )


def seven_b(vocabulary_size: int = 152_128) -> ModelConfig:
    """The paper's model: LLaVA-OneVision 7B with SAM ViT-H (section B.2)."""
    return _large(
        "7b",
        pixel_encoder="sam-vit-h",
        language={
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": vocabulary_size,
            "tie_word_embeddings": False,
        },
        spam_heads=28,
    )


FROM_SCRATCH = {"tiny": tiny}
"""Presets that need no backbones."""
PRESETS = {**FROM_SCRATCH, "0.5b": half_b, "7b": seven_b}


def build_agvas(config: ModelConfig) -> AGVAS:
    """Build a model with fresh weights, on the current default device (also "meta")."""
    language = {"use_cache": True, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, **config.language}
    llava_config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **config.semantic},
        text_config={"model_type": "qwen2", **language},
        tie_word_embeddings=bool(config.language["tie_word_embeddings"]),
        image_token_index=0,  # the visual tokens are inserted by position, not by this id
        video_token_index=0,
    )
    agmd = config.agmd
    llava, pixel_encoder = LlavaOnevisionForConditionalGeneration(llava_config), build_pixel_encoder(config)
    projection: nn.Module = nn.Identity()
    if config.pixel_encoder not in AS_THEY_ARE:
        projection = nn.Conv2d(feature_width(pixel_encoder), agmd.transformer_dim, kernel_size=1)
    model = AGVAS(
        llava=llava,
        pixel_encoder=pixel_encoder,
        pixel_projection=projection,
        spam=build_spam(config),
        token_refiner=TokenRefiner(
            embed_dim=config.hidden_size, out_dim=agmd.transformer_dim, activation=config.token_refiner_activation
        ),
        agmd=AGMD(
            transformer=TwoWayTransformer(
                depth=agmd.depth,
                embedding_dim=agmd.transformer_dim,
                num_heads=agmd.heads,
                mlp_dim=agmd.mlp_dim,
                attention_downsample_rate=agmd.attention_downsample_rate,
            ),
            transformer_dim=agmd.transformer_dim,
            fine=bool(config.pixel.get("fine")),
        ),
        image_newline=config.image_newline,
    )
    _init_positions(model)
    return model.eval()


def build_spam(config: ModelConfig) -> SPAM:
    """A fresh SPAM of a model's sizes."""
    return SPAM(
        embed_dim=config.hidden_size,
        num_heads=config.spam_heads,
        pixel_dim=config.agmd.transformer_dim,
        places=config.spam_places,
    )


def _init_positions(model: nn.Module) -> None:
    """SAM's encoder leaves its position embeddings at zero, where they would all learn alike."""
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            torch.nn.init.normal_(parameter, std=0.02)
