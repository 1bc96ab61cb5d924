"""What the device gives at best: products of 8192 x 8192 matrices in each precision, and a copy."""

from __future__ import annotations

from typing import Any

import torch
from timing import timed


def peaks(found: dict[str, Any], device: str, side: int = 8192) -> None:
    """TFLOP/s (TOP/s) and GB/s, the median of 10."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    one = torch.ones((), device=device)
    eights = [x.to(torch.float8_e4m3fn) for x in (a, b)]
    whole = [(x * 20).round().clamp(-127, 127).to(torch.int8) for x in (a, b)]
    calls = {
        "bf16_tflops": lambda: a @ b.t(),
        "fp8_tflops": lambda: torch._scaled_mm(
            eights[0], eights[1].t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        ),
        "int8_tops": lambda: torch._int_mm(whole[0], whole[1].t()),
    }
    for name, call in calls.items():
        try:
            found[name] = round(2 * side**3 / timed(call, repeats=10)["ms"] / 1e9, 1)
        except Exception as failure:
            found[name] = f"{type(failure).__name__}: {failure}"[:300]
    found["copy_gb_s"] = round(2 * a.nbytes / timed(lambda: b.copy_(a), repeats=10)["ms"] / 1e6, 1)
    if device == "cuda":
        try:
            found["clock_mhz"], found["power_w"] = torch.cuda.clock_rate(), torch.cuda.power_draw() / 1e3
        except Exception as failure:
            found["clock_mhz"] = str(failure)[:200]
