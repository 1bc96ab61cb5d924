"""What the export tests share: the embedded checkpoint, its graphs, a trace of one image, bundles made once.

All of it is of the embedded checkpoint, so that what is dear and always the same is made once a session.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from agvas_export import export
from agvas_export.export import export_bundle
from agvas_export.graphs import Graph, graphs_of
from agvas_export.onnx_graph import onnx_graph
from agvas_export.parity import Parity
from agvas_export.proof import SEED
from agvas_export.targets import OPSET, resolve
from agvas_export.trace import Trace, Tracer
from agvas_runtime.manifest import Manifest
from agvas_runtime.result import Result
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter

Exported = tuple[Path, Manifest, Parity]


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return load_checkpoint(default_checkpoint_path(), dtype=torch.float32)


@pytest.fixture(scope="session")
def graphs(checkpoint: Checkpoint) -> dict[str, Graph]:
    return {graph.name: graph for graph in graphs_of(checkpoint)}


@pytest.fixture(scope="session")
def trace(graphs: dict[str, Graph], checkpoint: Checkpoint) -> Trace:
    return Tracer(list(graphs.values()), checkpoint).trace(generate(SEED, 0).image)


Translate = Callable[..., ir.Model]


@pytest.fixture(scope="session", autouse=True)
def translated() -> Iterator[Translate]:
    """`onnx_graph`, but each graph of the embedded checkpoint is translated once a session: that takes seconds."""
    made: dict[tuple[str, int], ir.Model] = {}

    def translate(graph: Graph, *, opset: int = OPSET) -> ir.Model:
        if (graph.name, opset) not in made:
            made[graph.name, opset] = onnx_graph(graph, opset=opset)
        return made[graph.name, opset].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "onnx_graph", translate)
        yield translate


@pytest.fixture(scope="session", autouse=True)
def remembered() -> Iterator[None]:
    """Every export is compared with the same reference on the same images: it computes each of them once a session."""
    traces: dict[tuple[object, bytes], Trace] = {}
    results: dict[tuple[object, bytes], Result] = {}

    class Tracing(Tracer):
        def trace(self, image: NDArray[np.uint8]) -> Trace:
            key = image.shape, image.tobytes()
            if key not in traces:
                traces[key] = super().trace(image)
            return traces[key]

    class Reference(ReferenceSegmenter):
        def segment(self, image: NDArray[np.uint8]) -> Result:
            key = image.shape, image.tobytes()
            if key not in results:
                results[key] = super().segment(image)
            return results[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "Tracer", Tracing)
        patch.setattr(export, "ReferenceSegmenter", Reference)
        yield


@pytest.fixture(scope="session")
def model_of(graphs: dict[str, Graph], translated: Translate) -> Callable[..., ir.Model]:
    """A fresh ONNX model of a graph, of a given opset or the usual one."""
    return lambda name, opset=OPSET: translated(graphs[name], opset=opset)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The embedded checkpoint in float32."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return folder, *export_bundle(default_checkpoint_path(), folder, name="trial")


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The same for TensorRT in half precision."""
    folder = tmp_path_factory.mktemp("export") / "half"
    targets = resolve(trt="fp16")
    return folder, *export_bundle(default_checkpoint_path(), folder, name="half", targets=targets)
