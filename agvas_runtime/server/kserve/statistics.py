"""What became of the protocol's requests, as Triton's clients ask for it; other frames are not counted."""

from __future__ import annotations

from threading import Lock
from time import time_ns

from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.kserve.model import NAME, VERSION

STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


class Statistics:
    """Counts requests. Safe to use from several threads."""

    def __init__(self) -> None:
        self._model = oi.ModelStatistics(name=NAME, version=VERSION)
        self._lock = Lock()

    def answered(self, whole_ms: float, **stages_ms: float) -> None:
        """Count a request that was answered, and the milliseconds that it took, in all and in each of `STAGES`."""
        with self._lock:
            self._model.inference_count += 1
            self._model.execution_count += 1
            self._add("success", whole_ms)
            for stage in STAGES:
                self._add(stage, stages_ms[stage])

    def failed(self, whole_ms: float) -> None:
        """Count a request that was not."""
        with self._lock:
            self._add("fail", whole_ms)

    def read(self) -> oi.ModelStatistics:
        """All of it until now."""
        with self._lock:
            found = oi.ModelStatistics()
            found.CopyFrom(self._model)
            return found

    def _add(self, name: str, ms: float) -> None:
        duration = getattr(self._model.inference_stats, name)
        duration.count += 1
        duration.ns += max(int(ms * 1e6), 0)
        self._model.last_inference = time_ns() // 10**6
