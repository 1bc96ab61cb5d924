"""The model configuration: every size, and every point that the paper leaves open, recorded in every checkpoint."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agvas_runtime.preprocess import PixelView, SemanticView

PixelKind = Literal["sam", "sam-ft", "clip", "siglip", "dinov2", "dinov3", "conv"]
"""Families of pixel encoders: those of Table A.2, and the embedded default's own."""
AS_THEY_ARE: tuple[PixelKind, ...] = ("sam", "conv")
"""Whose features are as wide as the mask decoder; all others get a trained 1x1 map."""


class AgmdConfig(BaseModel):
    """Anchor-Guided Mask Decoder; the defaults are SAM's mask decoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transformer_dim: int = 256
    heads: int = 8
    mlp_dim: int = 2048
    depth: int = 2
    attention_downsample_rate: int = 2


class ModelConfig(BaseModel):
    """One AG-VAS model. `semantic`, `pixel` and `language` go to transformers' configuration classes as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str
    semantic: dict[str, Any]
    """SiglipVisionConfig fields."""
    pixel_encoder: PixelKind = "sam"
    """A trained 1x1 map brings the features of all but `AS_THEY_ARE` to `agmd.transformer_dim`."""
    pixel: dict[str, Any]
    """Fields of that kind's configuration class, with `image_size` and `patch_size`."""
    language: dict[str, Any]
    """Qwen2Config fields."""
    agmd: AgmdConfig = AgmdConfig()
    spam_heads: int
    """Heads of SPAM's cross-attention; the large presets use hidden_size / 128."""
    spam_places: bool = False
    """Tell SPAM's queries, keys and values where they are: for pixel encoders whose features do not know (ours)."""
    token_refiner_activation: Literal["relu", "gelu", "identity"] = "relu"
    """Between the two linear layers of the Token Refiner (the paper names the layers only)."""
    anchor_state: Literal["token", "predicting"] = "token"
    """Whose last-layer state represents an anchor: its own position, or the position that emitted it (LISA's way)."""
    image_newline: bool = True
    """Append LLaVA-OneVision's newline embedding to the semantic tokens."""
    anyres_max_tiles: Literal[0] = 0
    """Extra high-resolution tiles of the semantic view; one view only."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the absolute map in P = alpha P_seg + (1 - alpha) P_ano (section B.2)."""
    threshold: float = Field(0.5, ge=0, le=1)
    """The mask is P > threshold (section B.2)."""
    semantic_view: SemanticView
    pixel_view: PixelView

    @model_validator(mode="after")
    def _pixel_parts_fit(self) -> ModelConfig:
        size, patch = self.pixel.get("image_size"), self.pixel.get("patch_size")
        if size != self.pixel_view.size:
            raise ValueError(f"pixel.image_size is {size}, must equal pixel_view.size, {self.pixel_view.size}")
        if not isinstance(patch, int) or patch <= 0 or size % patch:
            raise ValueError(f"pixel.patch_size is {patch}, must divide pixel.image_size, {size}")
        channels, expected = self.pixel.get("output_channels", 256), self.agmd.transformer_dim
        if self.pixel_encoder in AS_THEY_ARE and channels != expected:
            raise ValueError(f"pixel.output_channels is {channels}, must equal agmd.transformer_dim, {expected}")
        return self

    @property
    def semantic_tokens(self) -> int:
        """N, the number of semantic tokens of one view."""
        return (int(self.semantic["image_size"]) // int(self.semantic["patch_size"])) ** 2

    @property
    def visual_tokens(self) -> int:
        """V = 2 N (+ 1), the visual tokens in the language model's prompt: f_s, image newline, f_align."""
        return 2 * self.semantic_tokens + int(self.image_newline)

    @property
    def grid(self) -> int:
        """g, the side of the pixel features; maps are 4 g wide."""
        return int(self.pixel["image_size"]) // int(self.pixel["patch_size"])

    @property
    def pixel_channels(self) -> int:
        """Channels of f_p, as the mask decoder gets them: with what is finer packed behind them, or without."""
        return self.agmd.transformer_dim * (4 if self.pixel.get("fine") else 1)

    @property
    def hidden_size(self) -> int:
        """d, the language model's width."""
        return int(self.language["hidden_size"])
