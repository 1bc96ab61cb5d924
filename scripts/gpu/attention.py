"""Attention by a named kernel, and which one is fastest for a shape. On a CPU it is PyTorch's own choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timing import timed
from torch import Tensor

aten = torch.ops.aten
TRIED: tuple[str, ...] = ("flash", "cudnn", "efficient")
"""Kernels to choose from."""
FOUND: dict[str, dict[str, float | str]] = {}
"""Milliseconds of every kernel that was tried, by shape."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, kernel: str, bias: Tensor | None = None, causal: bool = False, scale: float = 1.0
) -> Tensor:
    """[B, H, R, w], [B, G, T, w], [B, G, T, u] to [B, H, R, u]; G divides H.

    "flash" and "cudnn" take grouped heads as they are; "efficient" takes equal ones, and a bias [B, H, R, T], which the
    others do not.
    """
    width = v.shape[-1]
    if not q.is_cuda:
        grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=causal, scale=scale, enable_gqa=grouped
        )
    if kernel == "flash":  # wants one width
        v = F.pad(v, (0, q.shape[-1] - width)) if q.shape[-1] != width else v
        return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)[0][..., :width]
    if kernel == "cudnn":
        return aten._scaled_dot_product_cudnn_attention(q, k, v, None, False, 0.0, causal, False, scale=scale)[0]
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, False, 0.0, causal, scale=scale)[0]


def fastest(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, scale: float = 1.0) -> str:
    """The kernel to take for tensors of these shapes; what was found stands in FOUND."""
    if not q.is_cuda:
        return "cpu"
    shape = f"{tuple(q.shape)} {tuple(k.shape)} {tuple(v.shape)} causal={causal}"
    if shape not in FOUND:
        found: dict[str, float | str] = {}
        yardstick: tuple[str, Tensor] | None = None  # the first kernel that runs, and what it gives
        for kernel in TRIED:
            if kernel == "efficient" and q.shape[1] != k.shape[1]:
                continue
            try:
                out = attend(q, k, v, kernel, None, causal, scale).float()
                yardstick = yardstick or (kernel, out)
                off = float((out - yardstick[1]).norm() / yardstick[1].norm())
                if not off < 0.02:
                    found[kernel] = f"differs from {yardstick[0]} by {off:.3g}"
                    continue
                found[kernel] = timed(lambda n=kernel: attend(q, k, v, n, None, causal, scale), repeats=8, warm=2)["ms"]
            except Exception as error:
                found[kernel] = f"{type(error).__name__}: {error}"[:200]
        FOUND[shape] = found
    ran = {kernel: ms for kernel, ms in FOUND[shape].items() if isinstance(ms, float)}
    return min(ran, key=ran.__getitem__) if ran else "efficient"


def fastest_for(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], like: Tensor, *, causal: bool = False
) -> str:
    """`fastest` on random numbers of shapes [B, H, R, w], [B, G, T, w], [B, G, T, u]."""
    if not like.is_cuda:
        return "cpu"
    made = (torch.randn(shape, dtype=like.dtype, device=like.device) for shape in (q, k, v))
    return fastest(*made, causal=causal, scale=q[-1] ** -0.5)
