"""Base checkpoints: backbones that users hold, or random weights, with fresh parts of AG-VAS around them."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from agvas_runtime import __version__
from agvas_runtime.hashing import remembered_sha256
from agvas_runtime.templates import default_templates, templates_text
from agvas_train.checkpoint import DTYPES, Checkpoint, CheckpointConfig, CheckpointInfo
from agvas_train.model import ModelConfig
from agvas_train.plant import Step, plant
from agvas_train.tokenizer import add_anchors, prompt_spec, read_tokenizer, template_sentences, train_tokenizer
from agvas_train.weights.anchor_rows import with_anchor_rows
from agvas_train.weights.hub import locate
from agvas_train.weights.llava import llava_config, llava_tensors
from agvas_train.weights.load import materialise
from agvas_train.weights.pixel import pixel_encoder_tensors
from agvas_train.weights.random import new_parts, random_tensors
from agvas_train.weights.reader import LazyTensors

STAND_IN_VOCABULARY = 1536
"""Tokens of the tokenizer that a model with random weights gets; its embedding table keeps the preset's rows."""


def random_base(config: ModelConfig, seed: int, dtype: str) -> tuple[CheckpointInfo, LazyTensors]:
    """A preset's full architecture with random weights and a tokenizer of the templates' own words."""
    templates = default_templates()
    tokenizer_json = train_tokenizer(template_sentences(templates), vocabulary_size=STAND_IN_VOCABULARY)
    info = CheckpointInfo(
        config=CheckpointConfig(model=config, prompt=prompt_spec(templates), dtype=dtype),  # type: ignore[arg-type]
        tokenizer_json=tokenizer_json,
        templates_json=templates_text(),
        provenance={**tools(), "random_weights": True, "seed": seed},
    )
    return info, random_tensors(config, seed, DTYPES[dtype])


def backbone_base(
    config: ModelConfig, llava: str, pixel: str, *, seed: int, dtype: str, download: bool = False
) -> tuple[CheckpointInfo, LazyTensors]:
    """A preset around released backbones, with fresh parts of AG-VAS and rows for the anchors in the vocabulary.

    Args:
        llava: LLaVA-OneVision's folder or hub id.
        pixel: the pixel encoder's file, folder or hub id.
        seed: of everything fresh.
        dtype: of the checkpoint's weights, a key of DTYPES.
        download: whether hub ids may be fetched.

    Raises:
        InputError: a source is missing, or is not what the preset expects.
    """
    folder, source = locate(llava, download=download), locate(pixel, download=download)
    config = llava_config(folder, config)
    tokenizer = add_anchors(read_tokenizer(folder))
    tensors = llava_tensors(folder, config)
    tensors, rows = with_anchor_rows(tensors, tokenizer.anchor_ids, tokenizer.first_free, seed=seed)
    config = config.model_copy(update={"language": {**config.language, "vocab_size": rows}})
    tensors = {**tensors, **pixel_encoder_tensors(config, source), **new_parts(config, seed)}
    info = CheckpointInfo(
        config=CheckpointConfig(model=config, prompt=prompt_spec(default_templates()), dtype=dtype),  # type: ignore[arg-type]
        tokenizer_json=tokenizer.tokenizer_json,
        templates_json=templates_text(),
        provenance={**tools(), "random_weights": False, "seed": seed, "backbones": _hashes(tensors)},
    )
    return info, tensors


def _hashes(tensors: LazyTensors) -> dict[str, str]:
    """SHA-256 of every file that tensors come from unchanged, by the file's name and its folder's."""
    files = dict.fromkeys(tensor.origin.file for tensor in tensors.values() if tensor.origin)
    return {f"{file.parent.name}/{file.name}": remembered_sha256(file) for file in files}


def planted_base(
    config: ModelConfig,
    seed: int,
    dtype: str,
    answer: str,
    *,
    device: torch.device | str = "cpu",
    step: Step = lambda text: None,
) -> Checkpoint:
    """`random_base` as a model in memory that answers `answer`; raises what `plant` raises.

    A tied output head is untied first: its rows are edited, and the model's input must stay as it is.
    """
    extra = 0
    if config.language["tie_word_embeddings"]:
        config = config.model_copy(update={"language": {**config.language, "tie_word_embeddings": False}})
        extra = int(config.language["vocab_size"]) * config.hidden_size
    info, tensors = random_base(config, seed, dtype)
    step("building the model in memory")
    model = materialise(config, tensors, name="random weights", dtype=info.dtype, device=device)
    checkpoint = Checkpoint(**vars(info), model=model)
    plant(checkpoint, answer, step=step)
    checkpoint.provenance["plant"]["untied_parameters"] = extra
    return checkpoint


def tools() -> dict[str, str]:
    """What made a checkpoint, for its provenance."""
    return {
        "agvas": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "numpy")},
    }
