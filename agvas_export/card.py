"""The model card of a bundle, from its manifest: what it is, what was measured, what it must not be used for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agvas_runtime.manifest import Manifest, weights_note
from agvas_train.config import SYNTHETIC

OURS, UNKNOWN = "Apache-2.0", "not recorded"


def licence_of(provenance: Mapping[str, Any]) -> str:
    """The licence of a checkpoint's weights: the one it names, or ours where nothing of others is in them."""
    named = provenance.get("licence")
    if isinstance(named, str) and named.strip():
        return " ".join(named.split())
    return OURS if _all_ours(provenance) else UNKNOWN


def _all_ours(made: Any) -> bool:
    """Whether weights were trained from scratch on synthetic images alone, and so were those that they began with."""
    if not isinstance(made, Mapping) or made.get("data") != SYNTHETIC or "backbones" in made:
        return False
    if made.get("licence", OURS) != OURS:
        return False
    base, train = made.get("base"), made.get("train")
    if isinstance(base, Mapping) and base:
        return _all_ours(base.get("provenance", base))  # of merged adapters it stands beside the base's hash
    return isinstance(train, Mapping) and train.get("base_sha256", UNKNOWN) is None


def model_card(manifest: Manifest, provenance: Mapping[str, Any]) -> str:
    """The card as Markdown. `provenance` is the checkpoint's own record of how it was made."""
    source, model = manifest.source, manifest.model
    note = weights_note(source.random_weights, source.plant)
    lines = [
        f"# {manifest.name}",
        "",
        "A bundle of agvas: AG-VAS, zero-shot visual anomaly segmentation with a large multimodal model (CVPR 2026),",
        f"preset `{source.preset}`, as graphs for ONNX Runtime"
        + (
            f" and, built on the device, TensorRT in {manifest.engine_plan.precision}." if manifest.engine_plan else "."
        ),
        "",
        f"- Checkpoint: sha256 `{source.checkpoint_sha256}`",
        f"- Licence: {manifest.licence}",
        f"- Default instruction: {manifest.prompt.default_instruction}",
        f"- Mask: fused map above {model.threshold:g}, alpha {model.alpha:g}; both change without a new export.",
        *([f"- **Weights: {note}.** Masks and answers mean nothing."] if note else []),
        "",
        "## Use",
        "",
        "For segmenting visible defects on images of parts and surfaces. The verdict NO_ANSWER is not a pass. Measure",
        "it on images of your own line before it decides anything (`agvas-eval`): no figure below says how good the",
        "model is, only how far this bundle is from its checkpoint.",
        "",
        "## Parity with the checkpoint",
        "",
        *_parity(manifest),
        "",
        "## How the checkpoint was made",
        "",
        *(["```json", json.dumps(provenance, indent=1, sort_keys=True), "```"] if provenance else ["Not recorded."]),
        "",
        "## Made with",
        "",
        ", ".join(f"{tool} {version}" for tool, version in manifest.created_with.items()),
        "",
    ]
    return "\n".join(lines)


def _parity(manifest: Manifest) -> list[str]:
    parity: dict[str, Any] = dict(manifest.parity)
    whole = parity["whole"]
    rows = [
        f"| {name} | {graph['precision']} | {graph['largest_error']:.1e} | {graph['relative_error']:.1e} | "
        f"{graph.get('limit', 'none')} | {_more(graph)} |"
        for name, graph in parity["graphs"].items()
    ]
    return [
        f"Against the {parity['against']}, equal inputs, {parity['graph_images']} images. Largest error: largest",
        "difference of an output, by its largest value (limited in 16 and 32 bits); relative: norm of the difference",
        "by norm. Half precision is judged with every tensor rounded as its type demands.",
        "",
        "| graph | precision | largest error | relative | limit | more |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Whole, {whole['images']} images, {whole['segmented_images']} with masks to compare: "
        f"{whole['other_answers']:.1%} other answers, {_masks(whole)}, largest change of the anomaly score "
        f"{whole['score_change']:.1e}.",
        *(["Not judged: the weights are random."] if isinstance(whole["limits"], str) else []),
    ]


def _masks(whole: Mapping[str, Any]) -> str:
    if whole["mask_iou"] is None:
        return "no mask was compared"
    return f"mask IoU {whole['mask_iou']:.4f} (smallest {whole['smallest_mask_iou']:.4f})"


def _more(graph: Mapping[str, Any]) -> str:
    parts = []
    if "state_error" in graph:
        parts.append(f"anchor states {graph['state_error']:.1e}")
    if "peak" in graph:
        parts.append(f"largest half value {graph['peak']:.3g}")
    return ", ".join(parts)
