"""AG-VAS: LLaVA-OneVision, a pixel encoder, SPAM, Token Refiner and AGMD put together. No training, no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedModel
from transformers.cache_utils import Cache

from agvas_train.model.agmd import AGMD
from agvas_train.model.pixel_encoders import feature_map
from agvas_train.model.spam import SPAM
from agvas_train.model.token_refiner import TokenRefiner


class Visual(NamedTuple):
    """An image as the language model and the mask decoder see it."""

    tokens: Tensor
    """f_s, image newline if configured, f_align: [B, V, d]."""
    pixel: Tensor
    """f_p [B, C, g, g]."""


class AGVAS(nn.Module):
    """The model of the paper. Sub-modules come built; sizes stand in `build.py`.

    Weights may be float32 or 16 bits; views come as float32 and are cast to them, maps leave as float32.
    """

    def __init__(
        self,
        *,
        llava: LlavaOnevisionForConditionalGeneration,
        pixel_encoder: PreTrainedModel,
        pixel_projection: nn.Module,
        spam: SPAM,
        token_refiner: TokenRefiner,
        agmd: AGMD,
        image_newline: bool = True,
    ) -> None:
        super().__init__()
        self.llava = llava
        self.pixel_encoder = pixel_encoder
        self.pixel_projection = pixel_projection
        self.spam = spam
        self.token_refiner = token_refiner
        self.agmd = agmd
        self.image_newline = image_newline

    def semantic_features(self, pixels: Tensor) -> Tensor:
        """F_s and projector: semantic view, float [B, 3, S, S], to f_s [B, N, d].

        LLaVA-OneVision reads SigLIP's last hidden states before its closing layer norm.
        """
        tower = self.llava.model.vision_tower
        tower = getattr(tower, "vision_model", tower)
        hidden = tower.encoder(inputs_embeds=tower.embeddings(_as_weights(pixels, tower))).last_hidden_state
        return self.llava.model.multi_modal_projector(hidden)

    def pixel_features(self, pixels: Tensor) -> Tensor:
        """F_p and its projection: pixel view, float [B, 3, P, P], to f_p [B, C, g, g]."""
        return self.pixel_projection(feature_map(self.pixel_encoder, _as_weights(pixels, self.pixel_encoder)))

    def visual_tokens(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """f_s [B, N, d] and f_p [B, C, g, g] to the visual tokens [B, V, d] of the prompt, in f_s's dtype."""
        parts = [semantic]
        if self.image_newline:
            parts.append(self.llava.model.image_newline.expand(semantic.shape[0], 1, -1))
        parts.append(self.spam(semantic, pixel))
        return torch.cat([part.to(semantic.dtype) for part in parts], dim=1)

    def encode(self, semantic_pixels: Tensor, pixel_pixels: Tensor) -> Visual:
        """Both views of the images, float32 [B, 3, S, S] and [B, 3, P, P], whatever the weights' dtype."""
        pixel = self.pixel_features(pixel_pixels)
        return Visual(self.visual_tokens(self.semantic_features(semantic_pixels), pixel), pixel)

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., d] of token ids int64 [...]."""
        return self.llava.get_input_embeddings()(ids)

    def hidden_states(
        self,
        embeds: Tensor,
        *,
        mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Last-layer states, after the closing norm, of input embeddings [B, T, d]; plain causal without a mask.

        Args:
            embeds: input embeddings.
            mask: [B, 1, T, T], bool (True where row may attend to column) or a float bias added to the scores.
            position_ids: int64 [B, T].
            cache: keys and values so far; extended in place.
        """
        if mask is not None and mask.is_floating_point():
            mask = mask.to(embeds.dtype)  # attention kernels want one dtype; what overflows was masked anyway
        output = self.llava.model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """The output head: states [..., d] to logits [..., vocabulary]."""
        return self.llava.lm_head(states)

    def products(self, anchor_states: Tensor, pixel: Tensor, present: Sequence[int]) -> Tensor:
        """Anchor states [B, A, d] and f_p [B, C, g, g] to AGMD's dot products, float32 [B, A, 4 g, 4 g]."""
        return self.agmd(self.token_refiner(anchor_states), pixel, present).float()


def _as_weights(pixels: Tensor, module: nn.Module) -> Tensor:
    """A view in the dtype of a module's weights."""
    return pixels.to(next(module.parameters()).dtype)
