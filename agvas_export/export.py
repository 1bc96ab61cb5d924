"""From a checkpoint to a bundle: graphs, precisions, proof, manifest. One that fails its proof is never written."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch

from agvas_export.card import licence_of, model_card
from agvas_export.cost import graph_cost
from agvas_export.gptq import calibrate_int4
from agvas_export.graphs import Graph, default_plan, graphs_of
from agvas_export.half import to_half
from agvas_export.onnx_graph import WeightFiles, onnx_graph
from agvas_export.parity import HALF, LIMITS, Limits, Parity
from agvas_export.proof import (
    RGB,
    image_files,
    pixels_of,
    prove_graph,
    synthetic_images,
    whole_engines,
    whole_parity,
)
from agvas_export.qdq import activations, add_qdq, collect_ranges
from agvas_export.quantize import GPTQ4, HQQ4, Cache, quantize_int4, quantize_int8
from agvas_export.rounding import RoundingTwin
from agvas_export.targets import STATIC, Targets
from agvas_export.trace import Arrays, Trace, Tracer
from agvas_runtime import console
from agvas_runtime.bundle import CARD, EMBEDDINGS, TEMPLATES, TOKENIZER, Bundle, complete, write_manifest
from agvas_runtime.errors import EngineError
from agvas_runtime.frames import read_image
from agvas_runtime.manifest import EnginePlan, GraphSpec, Manifest, ModelSpec, Preprocessing, Source, TensorSpec
from agvas_runtime.prompts import INSTRUCTION_FIELD, check_text
from agvas_runtime.segmenter import Segmenter
from agvas_train.checkpoint import Checkpoint, load_checkpoint, write_folder
from agvas_train.reference import ReferenceSegmenter
from agvas_train.weights.store import weights_sha256

Step = Callable[[str], None]
"""Called with what is being done now."""
IMAGES, IMAGES_LARGE, LARGE = 24, 2, 100_000_000
"""Synthetic images of the proof, and how many for a model with more parameters than LARGE."""
GRAPH_IMAGES, GRAPH_IMAGES_LARGE = 48, 8
"""Images of the graph-by-graph proof, at most, the user's own first; the whole bundle is proved on all."""
CALIBRATION_IMAGES = 64
"""Of a larger calibration set only so many are taken, evenly spaced."""
MOST_NAME_CHARACTERS = 255
LONGER = 256
"""Tokens by which a native engine's longest instruction and trie may exceed the default ones."""


def export_bundle(
    source: Path,
    out: Path,
    *,
    name: str,
    targets: Targets | None = None,
    verify: Path | None = None,
    calibration: Path | None = None,
    limits: Limits | None = None,
    step: Step = lambda text: None,
) -> tuple[Manifest, Parity]:
    """Export a merged checkpoint to a bundle folder.

    Args:
        source: the checkpoint's folder.
        out: the bundle's folder; must be new or empty.
        targets: the graphs' precisions; float32 when None.
        verify: folder or data set of more images for the proof.
        calibration: folder or data set whose images the scales of 8-bit engines are taken from, and GPTQ's inputs.
        limits: what the whole may lose; by the lowest precision when None.

    Raises:
        InputError: the checkpoint or an image cannot be read, the name is not usable, or `out` exists.
        EngineError: a figure of the parity is past its limit. Nothing is written then.
    """
    check_text("name", name, MOST_NAME_CHARACTERS)
    targets = targets or Targets()
    images: list[RGB | Path] = list(image_files(verify)) if verify else []
    samples = image_files(calibration) if calibration else []
    samples = samples[:: -(-len(samples) // CALIBRATION_IMAGES)] if samples else []
    digest = weights_sha256(source)
    checkpoint = load_checkpoint(source, dtype=torch.float32)  # the proof is against float32
    checkpoint.templates.check_anchors(checkpoint.config.prompt.anchors, name=str(source / TEMPLATES))
    large = sum(each.numel() for each in checkpoint.model.parameters()) > LARGE
    images += synthetic_images(IMAGES_LARGE if large else IMAGES)
    graphs = graphs_of(checkpoint)
    made: list[tuple[Manifest, Parity]] = []

    def write(folder: Path) -> None:
        tracer = Tracer(graphs, checkpoint)
        feeds = []
        if samples:
            step(f"calibration: the reference's tensors of {len(samples)} images")
            feeds = [tracer.trace(read_image(path)).feeds for path in console.progress(samples, "reference")]
        data = _write_graphs(graphs, folder / "graphs", targets, checkpoint, feeds, step)
        _write_rest(checkpoint, folder, half=targets.llm != "fp32")
        some = images[: GRAPH_IMAGES_LARGE if large else GRAPH_IMAGES]
        step(f"parity: the reference's tensors of {len(some)} images")
        traces = [tracer.trace(pixels_of(image)) for image in console.progress(some, "reference", len(some))]
        manifest = _manifest(name, checkpoint, digest, graphs, data, folder, targets)
        parity = _prove(folder, checkpoint, graphs, manifest, targets, images, traces, limits, step)
        manifest = manifest.model_copy(update={"parity": parity.as_json()})
        (folder / CARD).write_text(model_card(manifest, checkpoint.provenance), encoding="utf-8")
        step("manifest")
        made.append((write_manifest(folder, manifest), parity))

    write_folder(out, write)
    return made[0]


def _write_graphs(
    graphs: list[Graph],
    folder: Path,
    targets: Targets,
    checkpoint: Checkpoint,
    samples: list[dict[str, Arrays]],
    step: Step,
) -> dict[str, list[str]]:
    """Write every graph in its precision; graph to the files that hold its weights.

    `samples` are the graphs' inputs for the calibration set; may be empty where nothing has to be calibrated.
    """
    folder.mkdir()
    files, cache, data = WeightFiles(folder), Cache(), {}
    head = int(checkpoint.config.model.language["vocab_size"])
    for graph in graphs:
        precision = targets.precision(graph.name)
        step(f"graph {graph.name}, {precision}")
        model = onnx_graph(graph, opset=targets.opset)
        feeds = [sample[graph.name] for sample in samples]
        try:
            model = _quantised(model, graph.name, precision, feeds, folder, head, cache)
        except ValueError as error:  # such as an activation of the calibration set that is not finite
            raise EngineError(f"graph {graph.name}: {error}") from None
        if precision in HALF:
            model = to_half(model, softmax_precision=targets.trt is None)
        data[graph.name] = files.write(graph.name, model)
    return data


def _quantised(
    model: ir.Model, name: str, precision: str, feeds: list[Arrays], folder: Path, head: int, cache: Cache
) -> ir.Model:
    """A float32 graph with its products in fewer bits where its precision says so; `folder` is for scratch files."""
    if precision == "int8":
        return quantize_int8(model, cache=cache)
    if precision == "int4":
        if name == "llm" and feeds:  # its sisters have the same weights
            with _written(name, model, folder) as path:
                calibrate_int4(model, path, feeds, cache, head=head)
        return quantize_int4(model, head=head, body=GPTQ4 if feeds else HQQ4, cache=cache)
    if precision in STATIC.values():
        kind: Literal["fp8", "int8"] = "fp8" if precision == "fp8" else "int8"
        with _written(name, model, folder) as path:
            ranges = collect_ranges(path, activations(model, kind, head=head), feeds)
        return add_qdq(model, ranges, kind, head=head)
    return model


@contextmanager
def _written(name: str, model: ir.Model, folder: Path) -> Iterator[Path]:
    """A float32 graph in a file, for as long as it is calibrated; what a kill leaves lies in the unfinished bundle."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        WeightFiles(Path(scratch)).write(name, model.clone())
        yield Path(scratch) / f"{name}.onnx"


def _write_rest(checkpoint: Checkpoint, folder: Path, *, half: bool) -> None:
    """Tokenizer, sentences and the table of token embeddings [V, d], in half precision where the model has no more."""
    (folder / TOKENIZER).write_text(checkpoint.tokenizer_json, encoding="utf-8")
    (folder / TEMPLATES).write_text(checkpoint.templates_json, encoding="utf-8")
    table = checkpoint.model.llava.get_input_embeddings().weight.detach().numpy()
    np.save(folder / EMBEDDINGS, table.astype(np.float16) if half else table, allow_pickle=False)


def _prove(
    folder: Path,
    checkpoint: Checkpoint,
    graphs: list[Graph],
    manifest: Manifest,
    targets: Targets,
    images: list[Any],
    traces: list[Trace],
    limits: Limits | None,
    step: Step,
) -> Parity:
    """Measure everything; raise EngineError at the first graph, in the order of a frame's way, that drifts."""
    random = bool(checkpoint.provenance.get("random_weights", False))
    proved = {}
    for graph in graphs:
        step(f"parity: {graph.name}")
        precision = targets.precision(graph.name)
        parity = prove_graph(folder / "graphs" / f"{graph.name}.onnx", precision, traces)
        parity.check(graph.name, random_weights=random)
        proved[graph.name] = parity
    images_traced = len(traces)
    del traces[:]
    limits = limits or LIMITS[targets.lowest]
    bundle = Bundle(folder, complete(folder, manifest))
    engines = whole_engines(folder, targets.precision)
    segmenter = Segmenter(bundle, engines)
    reference = ReferenceSegmenter(checkpoint, template_scores=not random)
    step(f"parity: whole bundle, {len(images)} images")
    whole = whole_parity(segmenter, reference, images)
    for name, engine in engines.items():
        if isinstance(engine, RoundingTwin) and engine.peaks:  # decode runs only where an answer leaves the known ones
            graph, (tensor, peak) = proved[name], engine.peak
            if not peak <= (graph.peak or 0.0):
                graph.peak_tensor, graph.peak = tensor, peak
            graph.check_peak(name)  # over all images
    if not random:
        whole.check(limits)
    return Parity(proved, images_traced, whole, random, None if random else limits)


def _manifest(
    name: str,
    checkpoint: Checkpoint,
    digest: str,
    graphs: list[Graph],
    data: dict[str, list[str]],
    folder: Path,
    targets: Targets,
) -> Manifest:
    config = checkpoint.config.model
    return Manifest(
        name=name,
        licence=licence_of(checkpoint.provenance),
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
            graph.name: _graph_spec(folder, graph, data[graph.name], targets.precision(graph.name)) for graph in graphs
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
        engine_plan=_engine_plan(checkpoint, targets) if targets.trt else None,
    )


def _engine_plan(checkpoint: Checkpoint, targets: Targets) -> EnginePlan:
    """One frame and one group of anchors as the usual case; instructions up to a good deal longer than the default."""
    plan = default_plan(checkpoint)
    before, after, nodes, edges = len(plan.before), len(plan.after), len(plan.trie.tokens), len(plan.trie.edge_rows)
    template, image = checkpoint.config.prompt.chat_template, checkpoint.config.prompt.image_token
    varies = template.index(INSTRUCTION_FIELD) < template.index(image)
    return EnginePlan(
        precision=targets.trt,
        graphs=targets.engine_graphs,
        ranges={
            "B": (1, 1, 1),
            "G": (1, 1, 4),
            "S": (1, before, before + LONGER) if varies else (before, before, before),
            "T": (after if varies else 1, after, after if varies else after + LONGER),
            "K": (1, nodes, nodes + LONGER),
            "E": (1, edges, edges + LONGER),
        },
    )


def _graph_spec(folder: Path, graph: Graph, data: list[str], precision: str) -> GraphSpec:
    model = onnx.load(folder / "graphs" / f"{graph.name}.onnx", load_external_data=False)
    return GraphSpec(
        file=f"graphs/{graph.name}.onnx",
        data=[f"graphs/{file}" for file in data],
        inputs=[_tensor_spec(value) for value in model.graph.input],
        outputs=[_tensor_spec(value) for value in model.graph.output],
        precision=precision,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        cost=graph_cost(graph),
    )


def _tensor_spec(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
