"""A fixed piece of work, timed between the frames: how fast the machine itself was while something was measured."""

import time

import numpy as np


class Yardstick:
    """A few tenths of a millisecond of arithmetic and of Python, in 64 KiB of memory: it leaves the caches alone.

    It has one thread: a pool of its own beside that of an engine makes the engine's graphs more than twice as slow.
    """

    def __init__(self) -> None:
        self._values = np.linspace(0.0, 1.0, 16384, dtype=np.float32)
        self._out = np.empty_like(self._values)

    def measure(self) -> float:
        """Do the work once; how long it took, in milliseconds."""
        began = time.perf_counter()
        for _ in range(8):
            np.exp(self._values, out=self._out)
            np.multiply(self._out, self._values, out=self._out)
        total = 0
        for number in range(8000):
            total += number & 7
        return (time.perf_counter() - began) * 1e3
