"""Writes the typed fp16 graphs around the language model as `agvas-export --trt fp16` does, of full-size random models.

    python scripts/gpu/tensorrt_graphs.py OUT [--preset 7b 0.5b] [--only 7b-pixel_encoder ...] [--skeletons FOLDER]

Each gets a folder, OUT/PRESET-GRAPH, that appears when it is whole: graph, weights, inputs.npz of one image, and
outputs.npz, what the model itself gives for them in float32, on the GPU where there is one. `tools/tensorrt_try.py`
takes them as --inputs and --compare.

Exporting takes a minute for the largest and wants PyTorch's exporter (onnxscript, onnx_ir). `--skeleton-only` does it
elsewhere: what it writes is small, and with --skeletons only the weights are put in.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import onnx
import torch
from common import build, images
from numpy.typing import NDArray
from skeleton import fill, strip
from torch import Tensor

from agvas_export.graphs import Graph, graphs_of
from agvas_export.targets import TRT_OPSET
from agvas_train.checkpoint import Checkpoint

NAMES = ("pixel_encoder", "decoder", "semantic_encoder", "spam")
"""What is written, the most interesting first."""
PRESETS = ("7b", "0.5b")

Arrays = dict[str, NDArray[np.generic]]
Case = tuple[Arrays, Arrays]
"""A graph's inputs and outputs by name."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    known = [f"{preset}-{name}" for preset in PRESETS for name in NAMES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the graphs' folders")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=PRESETS, metavar="PRESET", help="7b, 0.5b")
    parser.add_argument("--only", nargs="+", choices=known, default=known, metavar="NAME", help="such as 7b-spam")
    parser.add_argument("--fixed", action="store_true", help="for one image, without a dimension that varies")
    skeletons = parser.add_mutually_exclusive_group()
    skeletons.add_argument("--skeletons", type=Path, metavar="FOLDER", help="of OUT as --skeleton-only wrote it")
    skeletons.add_argument("--skeleton-only", action="store_true", help="write graphs without weights, nothing beside")
    parser.add_argument("--reduce", action="store_true", help="the same parts in small, to try this script")
    options = parser.parse_args(arguments)
    if options.skeletons:  # before weights are drawn, which takes a minute
        for preset in options.preset:
            for name in NAMES:
                if f"{preset}-{name}" in options.only and (wrong := unfit(options, f"{preset}-{name}")):
                    parser.error(wrong)
    return options


def unfit(options: argparse.Namespace, name: str) -> str | None:
    """What is wrong with a graph's skeleton."""
    path: Path = options.skeletons / name / f"{name.partition('-')[2]}.onnx"
    if not path.is_file():
        return f"{path}: no such file, expected a graph that --skeleton-only wrote"
    inputs = onnx.load(path, load_external_data=False).graph.input
    varies = any(dim.dim_param for value in inputs for dim in value.type.tensor_type.shape.dim)
    if varies == options.fixed:
        kinds = ("constant shapes", "a dimension that varies")
        return f"{path}: found a graph with {kinds[varies]}, expected {kinds[not varies]} (see --fixed)"
    return None


@torch.inference_mode()
def cases(graphs: dict[str, Graph], checkpoint: Checkpoint, wanted: Sequence[str], device: str) -> dict[str, Case]:
    """What the wanted graphs get and must give for one image: batch 1, and one group of all three anchors."""
    found: dict[str, Case] = {}
    outputs: dict[str, Tensor] = {}

    def run(name: str, *feeds: Tensor) -> Tensor:
        if name not in outputs:
            graph = graphs[name]
            (outputs[name],) = graph.reference(*(feed.to(device) for feed in feeds))
            given = {key: feed.cpu().numpy() for key, feed in zip(graph.inputs, feeds, strict=True)}
            found[name] = given, {graph.outputs[0]: outputs[name].cpu().numpy()}
        return outputs[name]

    config, image = checkpoint.config.model, next(images(1))
    semantic = torch.from_numpy(config.semantic_view.apply(image))
    pixels = torch.from_numpy(config.pixel_view.apply(image)[0])
    anchors = torch.randn(1, 3, config.hidden_size, generator=torch.Generator().manual_seed(0))
    if {"pixel_encoder", "decoder", "spam"} & set(wanted):
        f_p = run("pixel_encoder", pixels)
    if "decoder" in wanted:
        run("decoder", anchors, torch.ones(1, 3), f_p, torch.tensor(config.alpha))
    if {"semantic_encoder", "spam"} & set(wanted):
        f_s = run("semantic_encoder", semantic)
    if "spam" in wanted:
        run("spam", f_s, f_p)
    return found


def fixed(graph: Graph) -> Graph:
    """The graph for one image: every shape in it is a constant."""
    inputs = {name: tensor[:1] if name in graph.dynamic else tensor for name, tensor in graph.inputs.items()}
    return replace(graph, inputs=inputs, dynamic={})


def export(graph: Graph, folder: Path, *, skeleton: bool) -> None:
    """The graph as `agvas-export` writes it, or its skeleton."""
    from agvas_export.half import to_half
    from agvas_export.onnx_graph import WeightFiles, onnx_graph

    model = to_half(onnx_graph(graph, opset=TRT_OPSET), softmax_precision=False)
    if skeleton:
        print("kept:", *strip(model, graph.module, folder / f"{graph.name}.onnx"), sep="\n  ")
    else:
        WeightFiles(folder).write(graph.name, model)


def write(graph: Graph, case: Case | None, folder: Path, skeletons: Path | None) -> int:
    """The graph in a folder that appears when it is whole; bytes written. Without a case it is a skeleton."""
    part = folder.with_name(f".{folder.name}.part")
    for path in (part, folder):
        shutil.rmtree(path, ignore_errors=True)
    part.mkdir(parents=True)
    if skeletons:
        fill(skeletons / folder.name / f"{graph.name}.onnx", graph.module, part)
    else:
        export(graph, part, skeleton=case is None)
    for name, arrays in zip(("inputs", "outputs"), case or (), strict=False):
        np.savez(part / f"{name}.npz", **arrays)
    part.rename(folder)
    return sum(path.stat().st_size for path in folder.iterdir())


def say(text: str, began: float) -> float:
    """One line with the seconds since; returns the time now."""
    now = time.perf_counter()
    print(f"{now - began:6.1f} s  {text}", flush=True)
    return now


def write_preset(preset: str, options: argparse.Namespace) -> None:
    """The graphs of one preset: what they must give comes from the device, exporting is for the CPU."""
    wanted = [name for name in NAMES if f"{preset}-{name}" in options.only]
    if not wanted:
        return
    device, now = "cuda" if torch.cuda.is_available() else "cpu", time.perf_counter()
    checkpoint, _ = build(preset, device, dtype=torch.float32, reduce=options.reduce, planted=False, stub=True)
    now = say(f"{preset}: drawn on {device}", now)
    graphs = {graph.name: graph for graph in graphs_of(checkpoint)}
    given = {} if options.skeleton_only else cases(graphs, checkpoint, wanted, device)
    now = say(f"{preset}: reference", now)
    if not options.skeletons:
        checkpoint.model.to("cpu")
        graphs = {graph.name: graph for graph in graphs_of(checkpoint)}
    for name in wanted:
        graph = fixed(graphs[name]) if options.fixed else graphs[name]
        size = write(graph, given.get(name), options.out / f"{preset}-{name}", options.skeletons)
        now = say(f"{preset}-{name}: {size / 1e6:.1f} MB", now)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write them."""
    options = parse(arguments)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    for preset in PRESETS:
        if preset in options.preset:
            write_preset(preset, options)


if __name__ == "__main__":
    main()
