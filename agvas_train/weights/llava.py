"""LLaVA-OneVision's folders as they come from the hub: checked against a preset, their tensors under our names.

Both layouts are read: transformers 4's (`language_model.model.layers...`, `vision_tower.vision_model...`) and 5's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlavaOnevisionConfig

from agvas_runtime.errors import InputError
from agvas_train.model.build import build_agvas
from agvas_train.model.config import ModelConfig
from agvas_train.weights.reader import LazyTensor, LazyTensors, open_weights

MODEL_TYPE = "llava_onevision"
SIZES = {
    "text": ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "vision": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "image_size",
        "patch_size",
    ),
}
"""What must be the preset's own."""
TAKEN = {
    "text": ("vocab_size", "rope_parameters", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
    "vision": ("layer_norm_eps", "hidden_act"),
}
"""What the folder decides."""

OURS = "llava."
"""How AGVAS's names of these tensors begin."""
EMBEDDINGS_KEY, HEAD_KEY = "language_model.embed_tokens.weight", "lm_head.weight"
EMBEDDINGS, HEAD = f"{OURS}model.{EMBEDDINGS_KEY}", f"{OURS}{HEAD_KEY}"

_ALIASES = (  # applied in this order
    (re.compile(r"^model\."), ""),
    (re.compile(r"^language_model\.lm_head\."), "lm_head."),
    (re.compile(r"^language_model\.model\."), "language_model."),
    (re.compile(r"^vision_tower\.vision_model\."), "vision_tower."),
)
_UNUSED = re.compile(r"vision_tower\.(head\.|embeddings\.position_ids$)|.*\.rotary_emb\.inv_freq$")
"""SigLIP's pooling head, and constants that older versions stored."""
_VISION_LAYER = re.compile(r"vision_tower\.encoder\.layers\.(\d+)\.")
_CLOSING_NORM = re.compile(r"vision_tower\.post_layernorm\.(weight|bias)")
"""The module has it, but LLaVA-OneVision reads the states before it: a folder may do without."""


def llava_config(folder: Path, config: ModelConfig) -> ModelConfig:
    """The preset's configuration with what the folder decides: vocabulary, rotary base, tied head, norms, activations.

    Raises:
        InputError: not a folder of LLaVA-OneVision, or not of the preset's sizes.
    """
    found = _read_config(folder)
    parts = {"text": (found.text_config, config.language), "vision": (found.vision_config, config.semantic)}
    checks = {
        "text model_type": (found.text_config.model_type, "qwen2"),
        "vision model_type": (found.vision_config.model_type, "siglip_vision_model"),
        "vision_feature_select_strategy": (found.vision_feature_select_strategy, "full"),
        "projector_hidden_act": (found.projector_hidden_act, "gelu"),
        "multimodal_projector_bias": (found.multimodal_projector_bias, True),
    }
    for part, (theirs, ours) in parts.items():
        checks |= {f"{part} {name}": (getattr(theirs, name, None), ours[name]) for name in SIZES[part]}
    checks["vision num_hidden_layers"] = (_layers_read(folder, found), config.semantic["num_hidden_layers"])
    for name, (value, expected) in checks.items():
        if value != expected:
            raise InputError(f"{folder}: {name} is {value}, preset {config.preset} expects {expected}")
    text = found.text_config
    if (rope := text.rope_parameters["rope_type"]) != "default":
        raise InputError(f"{folder}: text rope_type is {rope}, expected default")
    if sliding := set(text.layer_types or ()) - {"full_attention"}:
        raise InputError(f"{folder}: text layer_types hold {min(sliding)}, expected full_attention alone")
    taken = {part: {name: getattr(theirs, name) for name in TAKEN[part]} for part, (theirs, _) in parts.items()}
    # folders name the tied head with the language model, with the whole, or with both
    taken["text"]["tie_word_embeddings"] = bool(text.tie_word_embeddings or found.tie_word_embeddings)
    return config.model_copy(
        update={"language": {**config.language, **taken["text"]}, "semantic": {**config.semantic, **taken["vision"]}}
    )


def _read_config(folder: Path) -> LlavaOnevisionConfig:
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not path.is_file():
        raise InputError(f"{folder}: no config.json in it, expected a folder of LLaVA-OneVision")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable JSON: {error}") from None
    kind = document.get("model_type") if isinstance(document, dict) else None
    if kind != MODEL_TYPE:
        raise InputError(f"{path}: model_type is {kind}, expected {MODEL_TYPE}")
    try:  # the hub's files leave out what equals a default; transformers' own class knows the defaults
        return LlavaOnevisionConfig.from_dict(document)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())[:200]}") from None


def _layers_read(folder: Path, found: LlavaOnevisionConfig) -> int:
    """How many vision layers run before the states that LLaVA-OneVision reads."""
    layer, layers = found.vision_feature_layer, found.vision_config.num_hidden_layers
    if not isinstance(layer, int):
        raise InputError(f"{folder}: vision_feature_layer is {layer}, expected a single layer")
    return layers + 1 + layer if layer < 0 else layer


def canonical(name: str) -> str:
    """One name for a tensor of LLaVA-OneVision, whichever version of transformers wrote it."""
    for pattern, replacement in _ALIASES:
        name = pattern.sub(replacement, name)
    return name


def llava_tensors(folder: Path, config: ModelConfig) -> LazyTensors:
    """The folder's tensors under the names that they have in AGVAS; a tied head is left out.

    Args:
        folder: weights in the hub's layout, whole or in shards.
        config: as `llava_config` gives it for the folder.

    Raises:
        InputError: no weights there, or a tensor is missing, unexpected, misshapen or there twice.
    """
    expected = _expected(config)
    preset = f"preset {config.preset}"
    found: LazyTensors = {}
    for name, tensor in open_weights(folder).items():
        key = canonical(name)
        file = tensor.origin.file if tensor.origin else folder
        if _is_unused(key, config):
            continue
        if key not in expected:
            raise InputError(f"{file}: unexpected tensor {name}, which {preset} does not have")
        if key in found:
            raise InputError(f"{file}: {name} is there under another name too, expected it once")
        if tensor.shape != (shape := expected[key][1]):
            raise InputError(f"{file}: {name} has shape {tensor.shape}, {preset} expects {shape}")
        found[key] = tensor
    head = None
    if config.language["tie_word_embeddings"]:
        head = found.pop(HEAD_KEY, None)  # folders hold it or not
        del expected[HEAD_KEY]
    missing = [key for key in expected if key not in found and not _CLOSING_NORM.fullmatch(key)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        shape = expected[missing[0]][1]
        raise InputError(f"{folder}: tensor {missing[0]} is missing{more}, {preset} expects it with shape {shape}")
    embeddings = found[EMBEDDINGS_KEY]
    if head is not None and not torch.equal(head.read(), embeddings.read()):
        raise InputError(f"{folder}: {HEAD_KEY} differs from the token embeddings, config.json says that they are tied")
    return {
        ours: found[key] if key in found else _closing_norm(key, shape, embeddings.dtype)
        for key, (ours, shape) in expected.items()
    }


def _expected(config: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """For every canonical name, ours and the shape."""
    with torch.device("meta"):
        tensors = build_agvas(config).state_dict()
    return {
        canonical(name.removeprefix(OURS)): (name, tuple(tensor.shape))
        for name, tensor in tensors.items()
        if name.startswith(OURS)
    }


def _is_unused(key: str, config: ModelConfig) -> bool:
    layer = _VISION_LAYER.match(key)
    return bool(_UNUSED.match(key)) or (layer is not None and int(layer[1]) >= config.semantic["num_hidden_layers"])


def _closing_norm(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> LazyTensor:
    value = float(key.endswith("weight"))
    return LazyTensor(shape, dtype, lambda: torch.full(shape, value, dtype=dtype))
