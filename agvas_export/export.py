"""From a checkpoint to a bundle: graphs, quantisation, manifest, proof. One that fails its proof is never written."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from agvas_export.graphs import OPSET, Graph, export_graph, graphs_of
from agvas_export.parity import GRAPH_ERROR, LIMITS, Limits, Parity, measure, parity_images
from agvas_export.quantize import PARTS, quantize_int8
from agvas_runtime.bundle import EMBEDDINGS, TEMPLATES, TOKENIZER, write_manifest
from agvas_runtime.manifest import GraphSpec, Manifest, ModelSpec, Preprocessing, Source, TensorSpec
from agvas_train.checkpoint import Checkpoint, load_checkpoint, write_folder
from agvas_train.weights.store import weights_sha256

Step = Callable[[str], None]
"""Called with what is being done now."""


def export_bundle(
    source: Path,
    out: Path,
    *,
    name: str,
    precision: Mapping[str, str],
    verify: Path | None = None,
    limits: Limits | None = None,
    opset: int = OPSET,
    step: Step = lambda text: None,
) -> tuple[Manifest, Parity]:
    """Export a merged checkpoint to a bundle folder.

    Args:
        source: the checkpoint's folder.
        out: the bundle's folder; must be new or empty.
        precision: "encoders" and "llm" to "fp32" or "int8"; the decoder is always fp32.
        verify: more images for the proof.
        limits: what the parity may not exceed end to end; by the lowest precision when None.

    Raises:
        InputError: the checkpoint cannot be read, or `out` exists.
        EngineError: the parity is over its limits. Nothing is written then.
    """
    checkpoint = load_checkpoint(source, dtype=torch.float32)  # the proof is against float32
    images = parity_images(verify)
    limits = limits or LIMITS["int8" if "int8" in precision.values() else "fp32"]
    made: list[tuple[Manifest, Parity]] = []

    def write(folder: Path) -> None:
        graphs = graphs_of(checkpoint)
        (folder / "graphs").mkdir()
        for graph in graphs:
            step(f"graph {graph.name}")
            path = folder / "graphs" / f"{graph.name}.onnx"
            export_graph(graph, path, opset=opset)
            if _precision(graph.name, precision) == "int8":
                quantize_int8(path)
        (folder / TOKENIZER).write_text(checkpoint.tokenizer_json, encoding="utf-8")
        (folder / TEMPLATES).write_text(checkpoint.templates_json, encoding="utf-8")
        table = checkpoint.model.llava.get_input_embeddings().weight.detach().float().numpy()
        np.save(folder / EMBEDDINGS, np.ascontiguousarray(table), allow_pickle=False)
        manifest = _manifest(name, checkpoint, weights_sha256(source), graphs, folder, precision)
        write_manifest(folder, manifest)
        step("parity")
        parity = measure(graphs, folder, checkpoint, images)
        graph_limits = {graph.name: GRAPH_ERROR[_precision(graph.name, precision)] for graph in graphs}
        parity.check(limits, graph_limits)
        proved = manifest.model_copy(update={"parity": parity.as_json(limits, graph_limits)})
        made.append((write_manifest(folder, proved), parity))

    write_folder(out, write)
    return made[0]


def _precision(graph: str, precision: Mapping[str, str]) -> str:
    return next((precision.get(part, "fp32") for part, graphs in PARTS.items() if graph in graphs), "fp32")


def _manifest(
    name: str,
    checkpoint: Checkpoint,
    digest: str,
    graphs: list[Graph],
    folder: Path,
    precision: Mapping[str, str],
) -> Manifest:
    config = checkpoint.config.model
    return Manifest(
        name=name,
        licence="Apache-2.0",
        created_with={
            "agvas": version("agvas"),
            "python": platform.python_version(),
            **{tool: version(tool) for tool in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")},
        },
        source=Source(
            checkpoint_sha256=digest,
            preset=config.preset,
            random_weights=bool(checkpoint.provenance.get("random_weights", False)),
            plant=checkpoint.provenance.get("plant"),
        ),
        graphs={
            graph.name: _graph_spec(folder, f"graphs/{graph.name}.onnx", _precision(graph.name, precision))
            for graph in graphs
        },
        preprocessing=Preprocessing(semantic=config.semantic_view, pixel=config.pixel_view),
        prompt=checkpoint.config.prompt,
        model=ModelSpec(
            hidden_size=config.hidden_size,
            visual_tokens=config.visual_tokens,
            map_size=4 * config.grid,
            canvas=config.pixel_view.size,
            anchor_state=config.anchor_state,
            alpha=config.alpha,
            threshold=config.threshold,
        ),
    )


def _graph_spec(folder: Path, file: str, precision: str) -> GraphSpec:
    model = onnx.load(folder / file, load_external_data=False)
    return GraphSpec(
        file=file,
        inputs=[_tensor_spec(value) for value in model.graph.input],
        outputs=[_tensor_spec(value) for value in model.graph.output],
        precision=precision,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
    )


def _tensor_spec(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
