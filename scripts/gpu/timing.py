"""Times, memory, clocks, CUDA graphs, compiling, profiles. On a CPU the same calls time with the host's clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

WARM_CALLS = 3
ERRORS: dict[str, str] = {}
"""What could not be compiled and runs eagerly instead, with the reason."""


def timed(call: Callable[[], object], *, repeats: int = 20, warm: int = 3, wall: bool = False) -> dict[str, float]:
    """Milliseconds of a call: median, 95th percentile, least. By CUDA events, or by the host's clock (`wall`)."""
    on_device = torch.cuda.is_available()
    for _ in range(warm):
        call()
    times = []
    if on_device and not wall:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        torch.cuda.synchronize()
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in pairwise(marks)]
    else:
        for _ in range(repeats):
            if on_device:
                torch.cuda.synchronize()
            began = time.perf_counter()
            call()
            if on_device:
                torch.cuda.synchronize()
            times.append((time.perf_counter() - began) * 1e3)
    median, high = np.percentile(times, (50, 95))
    return {"ms": round(float(median), 4), "p95_ms": round(float(high), 4), "min_ms": round(min(times), 4)}


def fresh_memory() -> None:
    """Give cached memory back, and count the peak anew from what is held now."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, float]:
    """Device memory in GB (10^9 bytes), of this process but for the last.

    `held_gb` is what tensors hold now, `peak_gb` the most that they held since `fresh_memory`, `reserved_gb` the most
    that PyTorch's allocator had taken from the driver for them since then, the graphs' pools among it, `device_gb` what
    the driver then counts as taken on the whole device: that, CUDA's context, loaded kernels, and other processes.
    """
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    most = torch.cuda.max_memory_reserved()
    return {
        "held_gb": round(torch.cuda.memory_allocated() / 1e9, 3),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3),
        "reserved_gb": round(most / 1e9, 3),
        "device_gb": round((total - free + most - torch.cuda.memory_reserved()) / 1e9, 3),
    }


def clock() -> dict[str, Any]:
    """Clock in MHz, power in W and temperature in degrees Celsius just after work, where the driver tells."""
    try:
        return {"mhz": torch.cuda.clock_rate(), "w": torch.cuda.power_draw() / 1e3, "c": torch.cuda.temperature()}
    except Exception as failure:
        return {"error": str(failure)[:200]}


class Graphed:
    """A function without arguments over memory that stays: recorded once as a CUDA graph, then replayed.

    Its outputs are overwritten by every call. On a CPU it is called as it is. `graph=False` warms it up only.
    """

    def __init__(self, function: Callable[[], Any], *, graph: bool = True) -> None:
        self._function = function
        self._graph = None
        self.outputs: Any = None
        if not torch.cuda.is_available():
            self.outputs = function()
            return
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_CALLS):
                self.outputs = function()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        if graph:
            self.outputs = None
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self.outputs = function()
            self._graph.replay()
            torch.cuda.synchronize()

    def __call__(self) -> Any:
        """Run or replay; returns the outputs."""
        if self._graph is not None:
            self._graph.replay()
        else:
            self.outputs = self._function()
        return self.outputs


class Compiled:
    """A function that many equal blocks share, compiled once for each shape; where that fails, as it is.

    `Compiled.on = False` runs all of them eagerly.
    """

    on = True

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = function.__qualname__
        self._eager = function
        self._compiled: Callable[..., Any] = torch.compile(function, dynamic=False)

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        if not Compiled.on or (ERRORS and self._kind(arguments) in ERRORS):
            return self._eager(*arguments)
        try:
            return self._compiled(*arguments)
        except Exception as error:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                raise
            kind = self._kind(arguments)
            ERRORS[kind] = f"{type(error).__name__}: {error}"[:800]
            print(f"{kind} runs eagerly: {ERRORS[kind][:300]}", flush=True)
            return self._eager(*arguments)

    def failure(self, *arguments: Any) -> str | None:
        """Why it runs eagerly on such arguments; tensors may be left out."""
        return ERRORS.get(self._kind(arguments)) if Compiled.on else "nothing is compiled"

    def _kind(self, arguments: tuple[Any, ...]) -> str:
        """The function with what else is compiled: kinds of layers, switches."""
        modules = {type(part).__name__ for each in arguments if isinstance(each, nn.Module) for part in each.modules()}
        switches = [str(each) for each in arguments if isinstance(each, str | int)]
        return " ".join((self._name, *sorted(modules & {"Fp8", "Int8", "Int4"}), *switches))


def allow_compiling() -> None:
    """Let one function be compiled for all shapes and precisions of a run."""
    config = torch._dynamo.config
    for name in ("recompile_limit", "cache_size_limit", "accumulated_recompile_limit", "accumulated_cache_size_limit"):
        if hasattr(config, name):
            setattr(config, name, 256)


def kernels(call: Callable[[], object], *, calls: int = 3, most: int = 15) -> list[dict[str, Any]]:
    """The kernels that take most of the device's time, per call."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as made:
        for _ in range(calls):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    on_device = torch.cuda.is_available()
    rows = []
    for event in made.key_averages():
        if on_device and "CUDA" not in str(getattr(event, "device_type", "")):
            continue
        total = getattr(event, "self_device_time_total", 0) if on_device else event.self_cpu_time_total
        rows.append((float(total) / 1e3 / calls, event.count / calls, event.key))
    rows.sort(reverse=True)
    whole = sum(row[0] for row in rows)
    table = [{"ms": round(ms, 4), "calls": round(count, 1), "kernel": name[:160]} for ms, count, name in rows[:most]]
    return [*table, {"ms": round(whole, 4), "calls": round(sum(row[1] for row in rows), 1), "kernel": "all"}]


def error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||."""
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
