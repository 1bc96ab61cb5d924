"""What the machine can do: products of ONNX Runtime in 32 and 8 bits, and memory. Nothing here knows of bundles."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from agvas_runtime.engines.ort import OrtEngine

ROWS, WIDTH = (512, 2048, 8192), 512
"""Products [rows, 512] x [512, 512]: the weights fit a core's own cache; many rows keep many cores busy."""
MEMORY_BYTES = 256 * 2**20
"""Of each array that memory is measured with: more than caches hold."""
LEAST_RUNS = 3


@dataclass(frozen=True)
class Peaks:
    """The best that was measured.

    Attributes:
        fp32: FLOP/s of float32 products; a multiplication and an addition are two.
        int8: the same of 8-bit products.
        memory: bytes per second, read or read and written.
    """

    fp32: float
    int8: float
    memory: float

    def best(self, other: Peaks) -> Peaks:
        """The higher of both, figure by figure."""
        return Peaks(max(self.fp32, other.fp32), max(self.int8, other.int8), max(self.memory, other.memory))


def measure_peaks(threads: int, seconds: float = 1.0) -> Peaks:
    """Measure with this many threads, about so many seconds for each figure. Raises EngineError."""
    return Peaks(
        fp32=_product("fp32", threads, seconds),
        int8=_product("int8", threads, seconds),
        memory=_memory(threads, seconds),
    )


def _product(precision: str, threads: int, seconds: float) -> float:
    engine = OrtEngine(Path(__file__).parent / f"product_{precision}.onnx", threads)
    rng, best = np.random.default_rng(0), 0.0
    for rows in ROWS:
        x = rng.integers(0, 256, (rows, WIDTH), np.uint8)
        feeds = {"x": x if precision == "int8" else x / np.float32(256)}
        shortest = _shortest(partial(engine.run, feeds), seconds / len(ROWS))
        best = max(best, 2 * rows * WIDTH * WIDTH / shortest)
    engine.close()
    return best


def _memory(threads: int, seconds: float) -> float:
    """Every thread copies, or reads, its own part; a copy moves every byte twice."""
    size = MEMORY_BYTES // 4
    source, copy = np.ones(size, np.float32), np.zeros(size, np.float32)
    parts = list(zip(np.array_split(source, threads), np.array_split(copy, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        copied = _shortest(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)), seconds / 2)
        read = _shortest(lambda: list(pool.map(lambda part: part[0].max(), parts)), seconds / 2)
    return max(2 * source.nbytes / copied, source.nbytes / read)


def _shortest(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the shortest run, of those that fit into the time and at least a few; one more warms up."""
    run()
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < seconds:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
