"""ONNX Runtime: one graph, one session."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agvas_runtime.engines import Feed, Tensors
from agvas_runtime.errors import EngineError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
UNSAFE_OPTIMIZER = "ReluQuantRewrite"
"""ONNX Runtime 1.32 drops every Relu before a quantisation to fp8, as if what is negative were cut there."""


class OrtEngine:
    """A graph in ONNX Runtime on the CPU, or on the execution providers that are named."""

    def __init__(
        self,
        path: Path | str,
        threads: int | None = None,
        providers: Sequence[str] = (CPU,),
        *,
        lean: bool = False,
    ) -> None:
        """Load the ONNX file at `path`; raises EngineError.

        Args:
            threads: None is one for each core; counts where the process shares no pool, see `share_threads`.
            lean: as little memory as possible, for graphs that are run a few times: nothing is kept for the next run,
                and nodes run in the graph's own order, so that what is looked at early is gone early.
        """
        self.name = Path(path).stem
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if lean:
            options.enable_cpu_mem_arena = options.enable_mem_pattern = False
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.log_severity_level = 4  # errors reach the caller as exceptions; stderr stays free of them
        _give_threads(options, threads or _cores())
        if missing := [name for name in providers if name not in available_providers()]:
            have = ", ".join(available_providers())
            raise EngineError(f"graph {self.name}: ONNX Runtime has no {missing[0]} here (it has {have})")
        try:
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=list(providers), disabled_optimizers=[UNSAFE_OPTIMIZER]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base class
            raise EngineError(f"graph {self.name}: cannot be loaded: {_one_line(error)}") from None
        if providers[0] not in self._session.get_providers():  # it takes the next one without a word
            libraries = " (CUDA or cuDNN libraries missing?)" if providers[0] == CUDA else ""
            raise EngineError(f"graph {self.name}: ONNX Runtime could not start {providers[0]}{libraries}")
        self.inputs = {spec.name: (spec.type, spec.shape) for spec in self._session.get_inputs()}
        self.outputs = [spec.name for spec in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Feed]) -> Tensors:
        """Input name to tensor -> output name to array. Raises EngineError naming the graph and what it was given."""
        arrays = {name: _whole(feed) for name, feed in feeds.items()}
        try:
            return dict(zip(self.outputs, self._session.run(self.outputs, arrays), strict=True))
        except Exception as error:
            given = ", ".join(f"{name} {value.dtype}{list(value.shape)}" for name, value in arrays.items())
            raise EngineError(f"graph {self.name}: {_one_line(error)} (given {given})") from None

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when it is done."""

    def close(self) -> None:
        """Let the session go."""
        self._session = None


def available_providers() -> list[str]:
    """What this ONNX Runtime was built with, best first. Raises EngineError where it is not installed."""
    return list(_onnxruntime().get_available_providers())


def _whole(feed: Feed) -> np.ndarray[Any, Any]:
    if isinstance(feed, Sequence):
        return np.concatenate([np.asarray(part) for part in feed], axis=1)
    return np.asarray(feed)


_shares_threads = False


def share_threads(threads: int | None) -> None:
    """Make one pool of this many threads (None: one for each core) for every graph of this process.

    The graphs run one after another; with a pool each, they are a third slower. Only for programs whose every use of
    ONNX Runtime is through agvas: from then on it refuses sessions that do not use the pool. The first call decides.
    """
    global _shares_threads
    if not _shares_threads:
        _onnxruntime().set_global_thread_pool_sizes(threads or _cores(), 1)
        _shares_threads = True


def _give_threads(options: Any, threads: int) -> None:
    """Let a graph use the process's pool where there is one, else threads of its own.

    Those must not spin: they would take the cores from the next graph.
    """
    if _shares_threads:
        options.use_per_session_threads = False
        return
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise EngineError("ONNX Runtime is not installed: pip install agvas[cpu] or agvas[gpu]") from None
    return onnxruntime


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
