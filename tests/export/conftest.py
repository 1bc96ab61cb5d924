"""What the export tests share: the embedded checkpoint, its graphs, a trace of one image, bundles made once."""

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from agvas_export import export
from agvas_export.export import export_bundle
from agvas_export.graphs import Graph, graphs_of
from agvas_export.onnx_graph import onnx_graph
from agvas_export.parity import Parity
from agvas_export.proof import SEED
from agvas_export.targets import OPSET, resolve
from agvas_export.trace import Trace, Tracer
from agvas_runtime.manifest import Manifest
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.data.synth import generate

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


@pytest.fixture(scope="session")
def model_of(graphs: dict[str, Graph], translated: Translate) -> Callable[[str], ir.Model]:
    """A fresh ONNX model of a graph."""
    return lambda name: translated(graphs[name])


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
