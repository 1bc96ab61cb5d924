"""A graph's file without the weights that its module holds; a machine without the exporter can fill it again.

A skeleton names, as the place of a weight's data, the parameter or buffer that it is; of several with the same
numbers (norms of ones) the first, so it is for weights as they are drawn, not trained ones. The rest stays in it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    import onnx_ir as ir

PAGE = 4096
"""Bytes that weights in their file begin at multiples of."""
DTYPES = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}
TURNED = ".T"
"""Behind the name of a matrix of which the graph has the transpose."""
VARYING = ".vision_model"
"""In the names of some versions of transformers only."""
BEGINNING = 64
"""Numbers by which a weight is looked up."""


def held(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are not scalars by all their names, and matrices turned."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    found = {**parameters, **dict(module.named_buffers(remove_duplicate=False))}
    tensors = {name.replace(VARYING, ""): tensor.detach() for name, tensor in found.items() if tensor.numel() > 1}
    return tensors | {f"{name}{TURNED}": tensor.T for name, tensor in tensors.items() if tensor.ndim == 2}


def _beginning(content: NDArray[np.generic]) -> tuple[int, bytes]:
    return content.size, content.flat[:BEGINNING].tobytes()


def strip(model: ir.Model, module: nn.Module, path: Path) -> list[str]:
    """Write a graph as a skeleton; what is not a tensor of the module stays in it. Returns their names."""
    import onnx_ir as ir

    kept, tensors = [], {name: tensor.numpy() for name, tensor in held(module).items()}
    names: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for name, tensor in tensors.items():
        for dtype in (np.float32, np.float16):
            first = tensor.flat[:BEGINNING].astype(dtype)
            names[tensor.size, first.tobytes()].append(name)
    for value in model.graph.initializers.values():
        if value.const_value is None or not value.dtype.is_floating_point() or value.const_value.size < 2:
            continue
        content, shape = value.const_value.numpy(), value.const_value.shape
        for name in names[_beginning(content)]:
            if np.array_equal(content.ravel(), tensors[name].astype(content.dtype).ravel()):
                value.const_value = ir.ExternalTensor(
                    name, 0, content.nbytes, value.dtype, shape=shape, name=value.name, base_dir=path.parent
                )
                break
        else:
            kept.append(f"{value.name} {list(content.shape)}")
    ir.save(model, path)
    return kept


def fill(path: Path, module: nn.Module, folder: Path) -> None:
    """Write a skeleton as a graph of its name into a folder, with the module's weights beside it."""
    model, tensors = onnx.load(path, load_external_data=False), held(module)
    data = f"{path.stem}.data"
    with open(folder / data, "wb") as file:
        for weight in model.graph.initializer:
            if weight.data_location != onnx.TensorProto.EXTERNAL:
                continue
            (name,) = (entry.value for entry in weight.external_data if entry.key == "location")
            content = tensors[name.replace(VARYING, "")].to(DTYPES[weight.data_type]).cpu().contiguous().numpy()
            file.write(bytes(-file.tell() % PAGE))
            del weight.external_data[:]
            for key, value in (("location", data), ("offset", file.tell()), ("length", content.nbytes)):
                weight.external_data.add(key=key, value=str(value))
            file.write(content.data)
    (folder / path.name).write_bytes(model.SerializeToString())
