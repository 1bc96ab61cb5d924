"""What else the machine did: processor time that neither this process took nor nobody."""

import os

import psutil


class Elsewhere:
    """Counts the processor time of everything but this process, time stolen by a virtual machine's host included.

    The kernel counts in ticks of 10 ms: a sum over half a second or more means something, one turn alone does not.
    """

    def __init__(self) -> None:
        self._last_s = self._now_s()

    def measure(self) -> float:
        """Milliseconds of processor time, of all cores together, since it was last asked; may be below 0 by ticks."""
        now_s = self._now_s()
        passed_s, self._last_s = now_s - self._last_s, now_s
        return passed_s * 1e3

    @staticmethod
    def _now_s() -> float:
        found, own = psutil.cpu_times(), os.times()
        named = ("user", "nice", "system", "irq", "softirq", "steal")
        return sum(getattr(found, name, 0.0) for name in named) - own.user - own.system
