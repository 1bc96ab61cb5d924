"""The pixel encoder's weights in the files that users hold: how each kind's tensors are named there, and that they fit.

Official SAM files (`.pth`), and hub folders of SAM, CLIP, SigLIP, DINOv2 or DINOv3, alone or beside other parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agvas_runtime.errors import InputError
from agvas_train.model.config import ModelConfig, PixelKind
from agvas_train.model.pixel_encoders import CLASSES, PIXEL_ENCODERS, build_pixel_encoder, pixel_encoder_name
from agvas_train.weights.reader import LazyTensor, LazyTensors, open_weights

PREFIX = "pixel_encoder."
CONFIG = "config.json"

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """How files name the tensors of a kind.

    Attributes:
        renames: patterns and replacements, one after another. The names of files and of the library's module both go
            through them and meet, whatever release of the library either comes from.
        ignored: what the renamed tensors of other known parts begin with.
        model_types: of the folders that hold it.
        free: fields of `config.json` that may differ: nothing in the weights depends on them.
    """

    renames: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    model_types: tuple[str, ...]
    free: tuple[str, ...] = ()


_SAM = Layout(
    renames=(
        (r"^(image_encoder|vision_encoder)\.", ""),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"^blocks\.", "layers."),
        (r"^(layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
        (r"^neck\.0\.", "neck.conv1."),
        (r"^neck\.1\.", "neck.layer_norm1."),
        (r"^neck\.2\.", "neck.conv2."),
        (r"^neck\.3\.", "neck.layer_norm2."),
    ),
    ignored=("prompt_encoder.", "mask_decoder.", "shared_image_embedding."),
    model_types=("sam", "sam_vision_model"),
)
LAYOUTS: dict[PixelKind, Layout] = {
    "conv": Layout(renames=(), ignored=(), model_types=("agvas_conv",)),
    "sam": _SAM,
    "sam-ft": _SAM,
    "clip": Layout(
        renames=((r"^vision_model\.", ""),),
        ignored=("text_model.", "text_projection.", "visual_projection.", "logit_scale", "embeddings.position_ids"),
        model_types=("clip", "clip_vision_model"),
    ),
    "siglip": Layout(
        renames=((r"^vision_model\.", ""),),
        ignored=("text_model.", "logit_scale", "logit_bias", "head.", "embeddings.position_ids"),
        model_types=("siglip", "siglip_vision_model"),
    ),
    "dinov2": Layout(
        renames=(
            (r"\.attention\.attention\.query\.", ".attention.q_proj."),
            (r"\.attention\.attention\.key\.", ".attention.k_proj."),
            (r"\.attention\.attention\.value\.", ".attention.v_proj."),
            (r"\.attention\.output\.dense\.", ".attention.o_proj."),
            (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
        ),
        ignored=("embeddings.mask_token",),
        model_types=("dinov2",),
    ),
    "dinov3": Layout(
        renames=((r"^model\.", ""),),
        ignored=(),
        model_types=("dinov3_vit",),
        free=("image_size",),  # positions are computed: the released configuration says 224 and means any size
    ),
}

DECISIVE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size"),
    *("patch_size", "hidden_act", "layer_norm_eps", "mlp_ratio", "qkv_bias", "use_abs_pos", "use_rel_pos"),
    *("window_size", "global_attn_indexes", "output_channels", "use_swiglu_ffn", "use_gated_mlp"),
    *("num_register_tokens", "rope_theta"),
)
"""Fields of configurations that decide what an encoder computes; others serve training, or parts that are not built."""


def pixel_encoder_tensors(config: ModelConfig, source: Path) -> LazyTensors:
    """Our names (`pixel_encoder.…`) to the tensors of a user's file or folder, nothing read yet.

    Raises:
        InputError: nothing readable is there, or it is not exactly the encoder of the configuration.
    """
    layout, who = LAYOUTS[config.pixel_encoder], f"preset {config.preset} with {pixel_encoder_name(config)}"
    if (source / CONFIG).is_file():
        _check_config(source / CONFIG, config, who)
    with torch.device("meta"):
        own = build_pixel_encoder(config).state_dict()
    names = {_renamed(name, layout): name for name in own}
    expected = {key: tuple(own[name].shape) for key, name in names.items()}
    held = _held(open_weights(source), layout, expected, source)
    _check_size({key: tensor.shape for key, tensor in held.items()}, expected, layout, source, who)
    for key in (key for key in expected if key not in held):
        raise InputError(
            f"{source}: no tensor for {PREFIX}{names[key]}, which {who} expects with shape {expected[key]}"
        )
    for key, tensor in held.items():
        where = f"{tensor.origin.file}: {tensor.origin.name}" if tensor.origin else f"{source}: {key}"
        if key not in expected:
            raise InputError(f"{where} is unexpected, {who} has no such tensor")
        if tensor.shape != expected[key]:
            raise InputError(f"{where} has shape {tensor.shape}, {who} expects {expected[key]}")
        if not tensor.dtype.is_floating_point:
            raise InputError(f"{where} holds {tensor.dtype}, expected floating point")
    return {PREFIX + name: held[key] for key, name in names.items()}


def _renamed(name: str, layout: Layout) -> str:
    for pattern, replacement in layout.renames:
        name = re.sub(pattern, replacement, name)
    return name


def _held(tensors: LazyTensors, layout: Layout, expected: Shapes, source: Path) -> LazyTensors:
    """A source's tensors by their common names, without those of other known parts."""
    held: LazyTensors = {}
    for name, tensor in tensors.items():
        key = _renamed(name, layout)
        if key.startswith(layout.ignored) and key not in expected:
            continue
        parts = {key: tensor}
        if ".mlp.weights_in." in key and key not in expected:  # DINOv2 files hold SwiGLU's gate and input as one
            parts = {
                key.replace("weights_in", part): _half(tensor, i) for i, part in enumerate(("gate_proj", "up_proj"))
            }
        if held.keys() & parts.keys():
            raise InputError(f"{source}: holds pixel encoders side by side, {name} is there under another name too")
        held |= parts
    return held


def _half(whole: LazyTensor, index: int) -> LazyTensor:
    """The first or second half of a tensor's rows."""
    rows = whole.shape[0] // 2
    return LazyTensor((rows, *whole.shape[1:]), whole.dtype, lambda: whole.read()[index * rows : (index + 1) * rows])


def _check_size(held: Shapes, expected: Shapes, layout: Layout, source: Path, who: str) -> None:
    """Another encoder as a whole is told by its size, not by its first odd tensor."""
    if not held.keys() & expected.keys():
        first = f"begins with {next(iter(held))}" if held else "is empty"
        raise InputError(f"{source}: no {layout.model_types[0]} image encoder, what it holds {first}; {who} needs one")
    found, wanted = _size(held), _size(expected)
    if found and found != wanted:
        fields = [(name, e.fields) for name, e in PIXEL_ENCODERS.items() if LAYOUTS[e.kind] is layout]
        known = [name for name, f in fields if found == (f["num_hidden_layers"], f["hidden_size"])]
        hint = f" ({known[0]})" if known else ""
        sizes = "{} layers of width {}".format
        raise InputError(f"{source}: holds an encoder of {sizes(*found)}{hint}, {who} expects {sizes(*wanted)}")


def _size(shapes: Shapes) -> tuple[int, int] | None:
    """Layers and width; None without the patch embeddings that tell the width."""
    layers = [int(found[1]) for key in shapes if (found := re.search(r"(?:^|\.)layers?\.(\d+)\.", key))]
    widths = [shape[0] for key, shape in shapes.items() if "patch_embed" in key and len(shape) == 4]
    return (max(layers, default=-1) + 1, widths[0]) if widths else None


def _check_config(file: Path, config: ModelConfig, who: str) -> None:
    """A folder's configuration must not contradict ours: not every difference shows in the shapes."""
    try:
        theirs: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = theirs.get("model_type")
        theirs = {**(theirs.get("vision_config") or theirs), **(theirs.get("vision_config_dict") or {})}
    except (OSError, ValueError, AttributeError, TypeError):
        raise InputError(f"{file}: not a readable configuration, expected a JSON object") from None
    layout, configuration = LAYOUTS[config.pixel_encoder], CLASSES[config.pixel_encoder][0]
    if kind not in layout.model_types:
        raise InputError(f"{file}: model_type is {kind}, {who} expects {' or '.join(layout.model_types)}")
    ours, defaults = configuration(**config.pixel).to_dict(), configuration().to_dict()
    for field in (field for field in DECISIVE if field in ours and field not in layout.free):
        found = theirs.get(field)
        found = defaults[field] if found is None else found  # older folders hold only what differs from the defaults
        wanted = list(ours[field]) if isinstance(ours[field], tuple) else ours[field]
        if found != wanted:
            raise InputError(f"{file}: {field} is {found}, {who} expects {wanted}")
