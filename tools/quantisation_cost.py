"""What each way to quantise the language model costs: bytes, milliseconds, and the error of the anchor states.

The embedded checkpoint, or with `--preset` a language model of that preset's size at random weights behind encoders of
one layer. The pass of the default instruction runs over synthetic images in ONNX Runtime on the CPU; scales of the Q/DQ
kinds come from other images. Every round opens one session after the other, so only one is in memory. JSON on stdout.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from agvas_export.gptq import calibrate_int4
from agvas_export.graphs import Graph, graphs_of
from agvas_export.onnx_graph import WeightFiles, onnx_graph
from agvas_export.qdq import activations, add_qdq, collect_ranges
from agvas_export.quantize import GPTQ4, HQQ4, INT8, Blocks, Cache, quantize_int4, quantize_int8
from agvas_runtime.plan import plan_pass
from agvas_train.assemble import random_base
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.data.synth import generate
from agvas_train.model.build import PRESETS
from agvas_train.weights.load import materialise

SEED, CALIBRATION_SEED = 20_260_302, 20_260_303
Feeds = dict[str, NDArray]


def checkpoint_of(preset: str | None) -> Checkpoint:
    """The embedded checkpoint, or a preset's language model behind encoders of one layer, at random weights."""
    if preset is None:
        return load_checkpoint(default_checkpoint_path(), dtype=torch.float32)
    config = PRESETS[preset]()
    config = config.model_copy(
        update={
            "semantic": {**config.semantic, "num_hidden_layers": 1},
            "pixel": {**config.pixel, "num_hidden_layers": 1, "global_attn_indexes": []},
        }
    )
    info, tensors = random_base(config, 0, "float32")
    return Checkpoint(**vars(info), model=materialise(config, tensors, name=preset, dtype=torch.float32))


def feeds_of(checkpoint: Checkpoint, graph: Graph, seed: int, images: int) -> list[Feeds]:
    """The graph's example inputs with the embeddings of real passes in them, one for every image."""
    model, config = checkpoint.model, checkpoint.config.model
    instruction = checkpoint.config.prompt.default_instruction
    plan = plan_pass(instruction, checkpoint.prompter, checkpoint.templates, config.visual_tokens)
    fixed, feeds = {name: tensor.numpy() for name, tensor in graph.inputs.items()}, []
    with torch.inference_mode():
        texts = {"before": plan.before, "after": plan.after, "nodes": plan.trie.tokens}
        fixed |= {name: model.embed(torch.from_numpy(ids))[None].numpy() for name, ids in texts.items()}
        for index in range(images):
            image = generate(seed, index).image
            views = config.semantic_view.apply(image), config.pixel_view.apply(image)[0]
            visual = model.encode(*map(torch.from_numpy, views)).tokens
            feeds.append({**fixed, "visual": visual.numpy()})
    return feeds


def run(path: Path, feeds: list[Feeds]) -> tuple[list[NDArray], list[float], list[float]]:
    """The states of every feed, and the milliseconds and CPU milliseconds of all runs but the first."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    states, wall_ms, cpu_ms = [], [], []
    for feed in (feeds[0], *feeds):  # the first run also sets up memory
        began, cpu_began = time.perf_counter(), time.process_time()
        states.append(session.run(["states"], feed)[0])
        wall_ms.append(1e3 * (time.perf_counter() - began))
        cpu_ms.append(1e3 * (time.process_time() - cpu_began))
    return states[1:], wall_ms[1:], cpu_ms[1:]


def relative_error(found: list[NDArray], expected: list[NDArray]) -> float:
    """||x - y|| / ||y|| over all rows of all passes."""
    x, y = (np.concatenate([states.reshape(-1, states.shape[-1]) for states in side]) for side in (found, expected))
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def kinds(model: ir.Model, path: Path, calibration: list[Feeds], head: int) -> dict[str, Callable[[], ir.Model]]:
    """Every way to quantise; the head of the weight-only kinds is in 8 bits, Q/DQ leave it as it is."""
    cache: Cache = {}
    ranges = collect_ranges(path, activations(model, head=head), calibration)
    calibrate_int4(model, path, calibration, cache, head=head)

    def blocks(body: Blocks) -> Callable[[], ir.Model]:
        head_blocks = Blocks(8, int8_activations=body.int8_activations)
        return lambda: quantize_int4(model, head=head, body=body, head_blocks=head_blocks, cache=cache)

    return {
        "int8, dynamic": lambda: quantize_int8(model),
        "8-bit blocks": blocks(Blocks(8)),
        "8-bit blocks, 8-bit activations": blocks(INT8),
        "4-bit blocks, nearest": blocks(Blocks(4)),
        "4-bit blocks, nearest, 8-bit activations": blocks(Blocks(4, int8_activations=True)),
        "4-bit blocks, HQQ": blocks(HQQ4),
        "4-bit blocks, GPTQ, 8-bit activations": blocks(GPTQ4),
        "Q/DQ int8": lambda: add_qdq(model, ranges, "int8", head=head),
        "Q/DQ fp8": lambda: add_qdq(model, ranges, "fp8", head=head),
    }


def measure(preset: str | None, images: int, rounds: int, only: list[str], work: Path) -> dict[str, object]:
    """All kinds of a language model, written into `work`."""
    checkpoint = checkpoint_of(preset)
    graph = next(graph for graph in graphs_of(checkpoint) if graph.name == "llm")
    feeds, calibration = (feeds_of(checkpoint, graph, seed, images) for seed in (SEED, CALIBRATION_SEED))
    head = int(checkpoint.config.model.language["vocab_size"])
    model = onnx_graph(graph)
    paths = {"fp32": write(model, work / "fp32")}  # from here on its weights are on disk
    del checkpoint, graph
    report: dict[str, dict[str, object]] = {"fp32": {}}
    for kind, make in kinds(model, paths["fp32"], calibration, head).items():
        if only and not any(part in kind for part in only):
            continue
        began = time.perf_counter()
        made = make()
        report[kind] = {"seconds_to_make": time.perf_counter() - began}
        paths[kind] = write(made, work / str(len(paths)))
        print(f"made {kind}", file=sys.stderr)
        del made
    times: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in paths}
    expected: list[NDArray] = []
    for _ in range(rounds):
        for kind, path in paths.items():
            states, wall_ms, cpu_ms = run(path, feeds)
            expected = expected or states
            report[kind]["states_relative_error"] = relative_error(states, expected)
            times[kind][0].extend(wall_ms)
            times[kind][1].extend(cpu_ms)
    for kind, path in paths.items():
        report[kind]["megabytes"] = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
        report[kind]["ms"], report[kind]["cpu_ms"] = map(statistics.median, times[kind])
    return {
        "model": preset or "tiny, trained",
        "tokens": sum(feeds[0][name].shape[1] for name in ("before", "visual", "after", "nodes")),
        "images": images,
        "rounds": rounds,
        "peak_resident_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "kinds": report,
    }


def write(model: ir.Model, folder: Path) -> Path:
    """Write a graph into a folder of its own."""
    folder.mkdir()
    WeightFiles(folder).write("llm", model)
    return folder / "llm.onnx"


def main() -> None:
    """Parse the command line and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=[name for name in PRESETS if name != "tiny"])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the kinds to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        report = measure(options.preset, options.images, options.rounds, options.only, Path(work))
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
