"""What the device gives at best: products of 8192 x 8192 matrices in each precision, and a copy."""

from __future__ import annotations

from typing import Any

import torch
from timing import clock, timed


def peaks(found: dict[str, Any], device: str, side: int = 8192, seconds: float = 2.0) -> None:
    """TFLOP/s (TOP/s) and GB/s, of a burst on a card that may still be cold and of work that goes on.

    A burst is the median of 10 calls, all kinds first; `_sustained` is the median of the last half of about `seconds`
    of calls, with the clock and the power right after them.
    """
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    one = torch.ones((), device=device)
    eights = [x.to(torch.float8_e4m3fn) for x in (a, b)]
    whole = [(x * 20).round().clamp(-127, 127).to(torch.int8) for x in (a, b)]
    product = 2 * side**3 / 1e9
    calls = {
        "bf16_tflops": (product, lambda: a @ b.t()),
        "fp8_tflops": (
            product,
            lambda: torch._scaled_mm(eights[0], eights[1].t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True),
        ),
        "int8_tops": (product, lambda: torch._int_mm(whole[0], whole[1].t())),
        "copy_gb_s": (2 * a.nbytes / 1e6, lambda: b.copy_(a)),
    }
    times: dict[str, float] = {}
    for name, (amount, call) in calls.items():
        try:
            times[name] = max(timed(call, repeats=10)["ms"], 1e-3)
            found[name] = round(amount / times[name], 1)
        except Exception as failure:
            found[name] = f"{type(failure).__name__}: {failure}"[:300]
    found["clock_after_bursts"] = clock()
    for name, ms in times.items():
        amount, call = calls[name]
        half = max(1, round(seconds * 500 / ms))
        found[f"{name}_sustained"] = round(amount / max(timed(call, repeats=half, warm=half)["ms"], 1e-3), 1)
        found[f"{name}_sustained_clock"] = clock()
