"""The arithmetic of a graph, counted by shapes alone: nothing is computed and no weight is read or copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from agvas_export.graphs import Graph
from agvas_runtime.manifest import Cost

BATCH = ("B", "G")
"""Dimensions that are 1 for one frame, and more in a graph's examples."""


def graph_cost(graph: Graph) -> Cost:
    """What one run of a graph costs: one frame, one group of anchors, all else as long as in the graph's examples.

    A multiplication and an addition are two. Products, convolutions and attention count, the rest does not; of causal
    attention half of the square counts.
    """
    inputs = {name: _one(tensor, graph.dynamic.get(name, {})) for name, tensor in graph.inputs.items()}
    counter, products = FlopCounterMode(display=False), _Products()
    # what is real (weights, constants) becomes fake where it is used
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        feeds = [fake.from_tensor(tensor) for tensor in inputs.values()]
        with counter, products:
            graph.module(*feeds)
    sizes = {name: inputs[tensor].shape[axis] for tensor, axes in graph.dynamic.items() for axis, name in axes.items()}
    flops = int(counter.get_total_flops()) + products.attention
    return Cost(flops=flops, matrix_flops=products.matrix, sizes=sizes)


def _one(tensor: Tensor, axes: Mapping[int, str]) -> Tensor:
    """The first of its batch."""
    for axis, name in axes.items():
        if name in BATCH:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


class _Products(TorchFunctionMode):
    """Counts products with constant matrices apart, and attention itself, whose kernels the counter does not all know.

    Attributes:
        matrix: FLOPs of linear layers; the counter counts them, too.
        attention: FLOPs of attention; the counter never sees it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrix = self.attention = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is F.linear:
            x, weight = args[:2]
            self.matrix += 2 * x.numel() * weight.shape[0]
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **_: Any,
    ) -> Tensor:
        """[..., R, w], [..., T, w], [..., T, v] -> [..., R, v]; each query head meets every key, or half of them."""
        (*heads, rows, width), (keys, out_width) = query.shape, value.shape[-2:]
        flops = 2 * query.shape[:-2].numel() * rows * keys * (width + out_width)
        self.attention += flops // 2 if is_causal else flops
        return query.new_empty((*heads, rows, out_width))
