"""GPTQ: 4-bit matrices whose rounding errors are made up for by the rows that are still to be rounded.

ONNX Runtime has a GPTQ of its own, but its version (1.32) multiplies a row's errors with the zeros of a triangular
matrix: nothing is passed on, and the result is that of rounding to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from agvas_export.observe import observe
from agvas_export.quantize import GPTQ4, Blocks, Cache, Product, products, remembered


def calibrate_int4(
    model: ir.Model,
    path: Path,
    feeds: Sequence[Mapping[str, NDArray]],
    cache: Cache,
    *,
    head: int | None,
    size: int = GPTQ4.size,
    at_once_bytes: int = 2**30,
) -> None:
    """Quantise every product but the head's by GPTQ, for what real inputs bring, into the cache.

    `quantize_int4` then takes the matrices from there, also for other graphs with the same weights.

    Args:
        model: float32 or float16.
        path: the same model in a file; external data beside it is read where it lies.
        feeds: inputs by name; together more rows than the widest activation is long, if possible.
        cache: what is filled.
        head: as for `quantize_int4`.
        size: rows of a block.
        at_once_bytes: for activations of K channels 4 K K bytes are held; the graph runs as often as this many need.

    Raises:
        ValueError: no feeds, or an activation that is not finite.
    """
    if not feeds:
        raise ValueError("no feeds to calibrate gptq with")
    blocks = Blocks(4, "gptq", size=size)
    readers: dict[str, list[Product]] = {}
    for product in products(model):
        if product.columns != head:
            readers.setdefault(str(product.activation.name), []).append(product)
    names = list(readers)
    while names:
        group, held = [], 0
        while names and (not group or held + 4 * readers[names[0]][0].rows ** 2 <= at_once_bytes):
            held += 4 * readers[names[0]][0].rows ** 2
            group.append(names.pop(0))
        grams = [np.zeros((), np.float32)] * len(group)
        for found in observe(path, group, _gram, feeds):
            grams = [gram + more for gram, more in zip(grams, found, strict=True)]
        for name, gram in zip(group, grams, strict=True):
            if not np.isfinite(gram).all():
                raise ValueError(f"{path.name}: {name} is not finite in the calibration set")
        for name in group:
            factor = _error_factor(grams.pop(0))
            for product in readers[name]:
                remembered(product.matrix(), blocks.kind, partial(_gptq_blocks, factor=factor, size=size), 0, cache)


def _gram(name: str, result: str) -> list[onnx.NodeProto]:
    """x [..., K] -> x^T x [K, K]."""
    rows = f"{result}.rows"
    return [
        onnx.helper.make_node("Flatten", [name], [rows], axis=-1),
        onnx.helper.make_node("Gemm", [rows, rows], [result], transA=1),
    ]


def _error_factor(gram: NDArray, damping: float = 0.01) -> torch.Tensor:
    """float32 [K, K], upper: how the error of a row is made up for by the rows behind it."""
    hessian = torch.from_numpy(gram).double()
    diagonal = hessian.diagonal()
    diagonal += damping * diagonal.mean() + 1e-12
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _gptq_blocks(matrix: NDArray, *, factor: torch.Tensor, size: int) -> tuple[NDArray, NDArray, NDArray]:
    """As `_quantized_blocks`, with packed zero points; factor: of `_error_factor`."""
    left = torch.from_numpy(matrix.astype(np.float32))  # a copy, which the errors change
    rows, columns = left.shape
    count = -(-rows // size)
    codes = torch.zeros(count * size, columns)
    scales, zeros = torch.empty(count, columns), torch.zeros(count + count % 2, columns)
    for block, start in enumerate(range(0, rows, size)):
        stop = min(start + size, rows)
        lowest, highest = left[start:stop].amin(0).clamp(max=0), left[start:stop].amax(0).clamp(min=0)
        scale = (highest - lowest) / 15
        scale[scale == 0] = 1
        zero = torch.round(-lowest / scale)
        errors = torch.empty(stop - start, columns)
        for row in range(start, stop):
            codes[row] = (torch.round(left[row] / scale) + zero).clamp(0, 15)
            errors[row - start] = (left[row] - scale * (codes[row] - zero)) / factor[row, row]
            left[row + 1 : stop] -= torch.outer(factor[row, row + 1 : stop], errors[row - start])
        left[stop:] -= factor[start:stop, stop:].T @ errors
        scales[block], zeros[block] = scale, zero
    packed = _pairs(codes).reshape(columns, count, size // 2)
    return packed, np.ascontiguousarray(scales.T.numpy().astype(matrix.dtype)), _pairs(zeros)


def _pairs(codes: torch.Tensor) -> NDArray:
    """float [2 n, N], whole numbers from 0 to 15 -> uint8 [N, n], the first of each pair in the low bits."""
    whole = np.ascontiguousarray(codes.T.numpy().astype(np.uint8))
    return whole[:, ::2] | whole[:, 1::2] << 4
