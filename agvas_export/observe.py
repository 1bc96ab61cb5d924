"""Looking into a graph while ONNX Runtime runs it: what calibration needs to know of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from numpy.typing import NDArray


def observe(
    path: Path,
    tensors: Sequence[str],
    reduction: Callable[[str, str], list[onnx.NodeProto]],
    feeds: Iterable[Mapping[str, NDArray]],
) -> Iterator[list[NDArray]]:
    """Run a graph in ONNX Runtime on the CPU and give, for every feed, what a reduction makes of each tensor.

    Args:
        path: ONNX file; external data beside it is read where it lies, so models over 2 GB work.
        tensors: names of float32 tensors.
        reduction: nodes from a tensor's name to another name, under which the result comes.
        feeds: inputs by name.
    """
    model = onnx.load(path, load_external_data=False)
    del model.graph.output[:]
    for number, name in enumerate(tensors):
        model.graph.node.extend(reduction(name, f"observed.{number}"))
        model.graph.output.append(onnx.ValueInfoProto(name=f"observed.{number}"))  # its type is inferred
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for feed in feeds:
        yield session.run(None, dict(feed))
