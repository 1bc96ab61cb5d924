"""Linear layers in 8 and 4 bits, made from bfloat16 ones by rounding to nearest.

8 bits: weights with one scale a row (output channel), activations with one a row (token), found on the way. The product
runs unscaled and both scales multiply its result, where compiling fuses them with what follows. 4 bits: weights only,
one scale for GROUP of them; a matrix becomes 16 bits again just before its product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
FP8_MOST, INT8_MOST, INT4_MOST = 448.0, 127.0, 7.0
GROUP = 128
ROWS = 16
"""Products in 8 bits want rows in multiples of this, and int8 more than this many."""


class Linear8(nn.Module):
    """x [..., K] to [..., N] in x's dtype. What a product of 8-bit matrices is, the subclasses know."""

    weight: Tensor
    scale: Tensor
    most: float
    kind: torch.dtype

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        packed = torch.empty(weight.shape, dtype=self.kind, device=weight.device)
        scale = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
        for start in range(0, weight.shape[0], 16384):  # the output head would be large in float32
            part = weight[start : start + 16384].float()
            scale[start : start + 16384] = part.abs().amax(1).clamp(min=1e-12) / self.most
            packed[start : start + 16384] = self.rounded(part / scale[start : start + 16384, None])
        self.register_buffer("weight", packed)
        self.register_buffer("scale", scale)
        self.register_buffer("one", torch.ones((), dtype=torch.float32, device=weight.device))
        self.bias = None if linear.bias is None else linear.bias.detach()

    def rounded(self, x: Tensor) -> Tensor:
        """Float numbers within +-most in the kind of 8 bits."""
        return x.to(self.kind)

    def product(self, rows: Tensor) -> Tensor:
        """[R, K] in 8 bits times the weights: [R, N]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Scale, round, multiply, scale back."""
        rows = x.reshape(-1, x.shape[-1]).float()
        count = rows.shape[0]
        pad = max(-count % ROWS, 2 * ROWS - count)
        rows = F.pad(rows, (0, 0, 0, pad)) if pad else rows
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / self.most
        out = self.product(self.rounded(rows / scale))[:count].float() * (scale[:count] * self.scale)
        if self.bias is not None:
            out = out + self.bias.float()
        return out.to(x.dtype).unflatten(0, x.shape[:-1])


class Fp8(Linear8):
    """8-bit floats, e4m3."""

    most, kind = FP8_MOST, FP8

    def product(self, rows: Tensor) -> Tensor:
        """By cuBLAS; unscaled results lie far inside bfloat16's range."""
        if not rows.is_cuda:
            return rows.to(torch.bfloat16) @ self.weight.to(torch.bfloat16).t()
        return torch._scaled_mm(
            rows, self.weight.t(), self.one, self.one, out_dtype=torch.bfloat16, use_fast_accum=True
        )


class Int8(Linear8):
    """8-bit integers, symmetric."""

    most, kind = INT8_MOST, torch.int8

    def rounded(self, x: Tensor) -> Tensor:
        """To nearest."""
        return x.round().to(self.kind)

    def product(self, rows: Tensor) -> Tensor:
        """Exact, int32."""
        return torch._int_mm(rows, self.weight.t())


class Int4(nn.Module):
    """Weights in 4 bits, symmetric; x [..., K] to [..., N]. Two neighbours in K share a byte."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        packed, scales = [], []
        for part in weight.split(4096):
            groups = part.float().unflatten(1, (-1, GROUP))
            scale = groups.abs().amax(2, keepdim=True).clamp(min=1e-12) / INT4_MOST
            codes = ((groups / scale).round() + 8).to(torch.uint8).flatten(1)
            packed.append(codes[:, ::2] | (codes[:, 1::2] << 4))
            scales.append(scale[..., 0].to(weight.dtype))
        self.register_buffer("weight", torch.cat(packed))
        self.register_buffer("scale", torch.cat(scales))
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """The matrix in x's dtype, then the plain product."""
        codes = torch.stack((self.weight & 15, self.weight >> 4), dim=2).flatten(1)
        groups = (codes.to(x.dtype) - 8).unflatten(1, (-1, GROUP)) * self.scale[..., None]
        return F.linear(x, groups.flatten(1), self.bias)


KINDS: dict[str, type[nn.Module]] = {"fp8": Fp8, "int8": Int8, "int4": Int4}


def quantise(module: nn.Module, kind: str, *, least: int = 16) -> None:
    """Put linear layers of a kind in the place of a module's own, below it everywhere.

    Layers whose sides are no multiples of `least` stay as they are.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if child.in_features % least or child.out_features % least:
                continue
            setattr(module, name, KINDS[kind](child))
        else:
            quantise(child, kind, least=least)
