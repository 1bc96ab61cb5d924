"""A preset's real model with random weights, drawn on the device itself, planted to write the default answer."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agvas_runtime.errors import EngineError
from agvas_runtime.templates import default_templates, templates_text
from agvas_train.assemble import STAND_IN_VOCABULARY
from agvas_train.checkpoint import Checkpoint, CheckpointConfig, CheckpointInfo
from agvas_train.data.synth import generate
from agvas_train.model import ModelConfig
from agvas_train.model.build import PRESETS
from agvas_train.plant import plant
from agvas_train.tokenizer import prompt_spec, template_sentences, train_tokenizer
from agvas_train.weights.load import build_empty, materialise, named_tensors
from agvas_train.weights.random import is_new_part, new_parts, scales, std
from agvas_train.weights.reader import LazyTensor

ANSWER = "Sure, it is [NOR][ANO][SEG]."
FIRST_IMAGE = 9_000_000
"""Seed of the images that figures are checked on; planting uses others."""
STUB_WORDS = 2048
"""More than the stand-in tokenizer has."""


class Weights:
    """A model's random tensors by name, drawn on a device.

    The same name gives the same numbers on one kind of device.
    """

    def __init__(self, config: ModelConfig, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.config, self.device, self.dtype, self.seed = config, device, dtype, seed
        empty = build_empty(config)
        self.ones = scales(empty)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(empty).items()}

    def draw(self, name: str) -> Tensor:
        """One tensor."""
        out = torch.empty(self.shapes[name], dtype=self.dtype, device=self.device)
        if name in self.ones:
            return out.fill_(1)
        number = int.from_bytes(sha256(f"{self.seed}/{name}".encode()).digest()[:8], "little") >> 1
        generator = torch.Generator(self.device).manual_seed(number)
        return out.normal_(0, std(name, self.config), generator=generator)


def reduced(config: ModelConfig) -> ModelConfig:
    """A large preset's shape in small: few layers, narrow, the same kinds of parts and widths of heads."""
    if config.preset == "tiny":
        return config
    semantic = {"hidden_size": 144, "intermediate_size": 272, "num_hidden_layers": 2, "num_attention_heads": 2}
    pixel = {"hidden_size": 160, "num_hidden_layers": 4, "num_attention_heads": 2, "global_attn_indexes": [1, 3]}
    language = {"hidden_size": 512, "intermediate_size": 768, "num_hidden_layers": 2, "vocab_size": 2048}
    changed = {
        "semantic": {**config.semantic, **semantic, "image_size": 84},
        "semantic_view": config.semantic_view.model_copy(update={"size": 84}),
        "pixel": {**config.pixel, **pixel, "image_size": 256},
        "pixel_view": config.pixel_view.model_copy(update={"size": 256}),
        "language": {**config.language, **language, "num_attention_heads": 4, "num_key_value_heads": 2},
        "spam_heads": 4,
    }
    return ModelConfig.model_validate({**config.model_dump(), **changed})


def with_stub(config: ModelConfig) -> ModelConfig:
    """The same model but for its language model: one layer of the same width and few words."""
    return config.model_copy(update={"language": {**config.language, "num_hidden_layers": 1, "vocab_size": STUB_WORDS}})


def build(
    preset: str,
    device: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    reduce: bool = False,
    planted: bool = True,
    stub: bool = False,
) -> tuple[Checkpoint, Weights]:
    """A checkpoint in memory, on the device, and the source of its weights.

    A tied output head is untied, as `--plant` does. Where decoding does not write ANSWER, the provenance says so.
    With `stub`, see `with_stub`, it cannot be planted.
    """
    config = PRESETS[preset]()
    config = reduced(config) if reduce else config
    config = with_stub(config) if stub else config
    config = config.model_copy(update={"language": {**config.language, "tie_word_embeddings": False}})
    name = {torch.bfloat16: "bfloat16", torch.float32: "float32"}[dtype]
    templates = default_templates()
    info = CheckpointInfo(
        config=CheckpointConfig(model=config, prompt=prompt_spec(templates), dtype=name),  # type: ignore[arg-type]
        tokenizer_json=train_tokenizer(template_sentences(templates), vocabulary_size=STAND_IN_VOCABULARY),
        templates_json=templates_text(),
        provenance={"random_weights": True, "seed": 0},
    )
    weights, tensors = Weights(config, device, dtype), new_parts(config, 0)
    for key, shape in weights.shapes.items():
        if not is_new_part(key):
            tensors[key] = LazyTensor(shape, dtype, lambda key=key: weights.draw(key))  # type: ignore[misc]
    model = materialise(config, tensors, name="random weights", dtype=dtype, device=device)
    model.requires_grad_(False)
    checkpoint = Checkpoint(**vars(info), model=model)
    if planted:
        try:
            plant(checkpoint, ANSWER)
        except EngineError as failure:  # times are the same, answers are not
            checkpoint.provenance["plant"] = {"error": str(failure)}
    return checkpoint, weights


def images(count: int) -> Iterator[NDArray[np.uint8]]:
    """RGB images [H, W, 3] that planting did not see: synthetic surfaces with defects, every third one noise."""
    random = np.random.default_rng(FIRST_IMAGE)
    for index in range(count):
        if index % 3 == 2:
            yield random.integers(0, 256, (640, 800, 3), dtype=np.uint8)
        else:
            yield generate(FIRST_IMAGE, index).image
