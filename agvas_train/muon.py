"""Muon for many small matrices: those of one shape are orthogonalised together, in hundreds of calls, not thousands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of the quintic iteration (Jordan, "Muon", 2024): steep at 0, and near 1 it leaves singular values of 0.7 to 1.2."""
ITERATIONS = 5
ADAMW_SIZE = 0.2
"""Root mean square of an AdamW step in units of the learning rate (Liu et al., "Muon is scalable", 2025)."""


class Muon(torch.optim.Optimizer):
    """The steps of `torch.optim.Muon` with Nesterov's momentum, each scaled to the size of AdamW's.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate, as AdamW's.
        weight_decay: share of a weight that goes in each step, in units of `lr`.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, weight in enumerate(weights):
            alike[tuple(sorted(weight.shape))].append(index)
        for shape, chosen in alike.items():
            wide = torch.stack([_wide(ahead[index]) for index in chosen])
            steps = orthogonal(wide).to(weights[chosen[0]].dtype).unbind()
            turned = [
                step if weights[index].shape == step.shape else step.T
                for index, step in zip(chosen, steps, strict=True)
            ]
            rate = group["lr"] * ADAMW_SIZE * sqrt(shape[1])
            torch._foreach_add_([weights[index] for index in chosen], turned, alpha=-rate)


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices [K, A, B] with A <= B whose singular values are all about 1, in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
