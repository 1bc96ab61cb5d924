"""What every graph of a bundle costs, and how long it takes here. What that means beside the machine: report.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agvas_runtime import console
from agvas_runtime.bundle import Bundle
from agvas_runtime.engines import Tensors
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import BundleError
from agvas_runtime.manifest import Cost, TensorSpec

PER_TOKEN = "decode"
"""The graph that runs once for each token of a free text; every other one runs once a frame."""
WARMUP = 3


@dataclass(frozen=True)
class Part:
    """One run of a graph.

    Attributes:
        flops: a multiplication and an addition are two.
        matrix_flops: of them, products with constant matrices; the others stay in floating point in graphs in int8 and
            int4 for ONNX Runtime.
        weight_bytes: of the files that hold its weights.
        tensor_bytes: of its inputs and outputs.
        ms: median.
        best_ms: the shortest.
    """

    name: str
    precision: str
    flops: int
    matrix_flops: int
    weight_bytes: int
    tensor_bytes: int
    ms: float
    best_ms: float


def time_parts(bundle: Bundle, threads: int | None, runs: int) -> list[Part]:
    """Run the graphs of a frame in turns, as a frame does, then the one of a token.

    Raises:
        BundleError: the bundle carries no counts.
        EngineError: a graph cannot be loaded or run.
    """
    costs = counts(bundle)
    frame = [name for name in bundle.manifest.graphs if name != PER_TOKEN]
    token = [name for name in bundle.manifest.graphs if name == PER_TOKEN]
    # one after the other: both hold the language model's weights
    return [part for names in (frame, token) for part in _timed(bundle, names, costs, threads, runs)]


def counts(bundle: Bundle) -> dict[str, Cost]:
    """Graph to what the export counted. Raises BundleError where it did not."""
    graphs = bundle.manifest.graphs
    costs = {name: spec.cost for name, spec in graphs.items() if spec.cost is not None}
    if without := [name for name in graphs if name not in costs]:
        raise BundleError(f"{bundle.folder}: graph {without[0]} carries no counts of its arithmetic; export it again")
    return costs


def example_feeds(bundle: Bundle) -> dict[str, Tensors]:
    """Inputs of every graph, as long as those it was counted for: random numbers, and 0 for whole ones.

    Raises BundleError as `counts`, and where a size is missing.
    """
    rng = np.random.default_rng(0)
    feeds: dict[str, Tensors] = {}
    for name, cost in counts(bundle).items():
        feeds[name] = {}
        for spec in bundle.manifest.graphs[name].inputs:
            try:
                shape = _shape(spec, cost.sizes)
            except KeyError as missing:
                raise BundleError(f"{bundle.folder}: graph {name}: the size of {missing} was not counted") from None
            whole = np.issubdtype(np.dtype(spec.dtype), np.integer)
            values = np.zeros(shape) if whole else rng.standard_normal(shape)
            feeds[name][spec.name] = np.asarray(values, spec.dtype)
    return feeds


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def _timed(bundle: Bundle, names: list[str], costs: dict[str, Cost], threads: int | None, runs: int) -> list[Part]:
    feeds = example_feeds(bundle)
    engines = {name: OrtEngine(bundle.graph_path(name), threads) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    tensors = {}
    for name, engine in engines.items():
        for _ in range(WARMUP):
            outputs = engine.run(feeds[name])
        tensors[name] = sum(value.nbytes for value in (*feeds[name].values(), *outputs.values()))
    for _ in console.progress(range(runs), "runs"):
        for name, engine in engines.items():
            begin = time.perf_counter()
            engine.run(feeds[name])
            times[name].append((time.perf_counter() - begin) * 1e3)
    for engine in engines.values():
        engine.close()
    return [
        Part(
            name=name,
            precision=bundle.manifest.graphs[name].precision,
            flops=costs[name].flops,
            matrix_flops=costs[name].matrix_flops,
            weight_bytes=sum(bundle.manifest.files[file].size for file in bundle.manifest.graphs[name].data),
            tensor_bytes=tensors[name],
            ms=float(np.median(times[name])),
            best_ms=min(times[name]),
        )
        for name in names
    ]
