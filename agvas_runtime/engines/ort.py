"""ONNX Runtime: one graph, one session, plainly on the CPU. On a device: `ort_bound.py`.

I/O binding brings nothing on the CPU, where feeds and outputs lie in one memory anyway: see docs/experiments.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agvas_runtime.cpu import clips_eight_bit_sums, usable_cores
from agvas_runtime.engines import Array, Tensors
from agvas_runtime.errors import EngineError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
UNSAFE_OPTIMIZER = "ReluQuantRewrite"
"""ONNX Runtime 1.32 drops every Relu before a quantisation to fp8, as if what is negative were cut there."""

EXACT_EIGHT_BITS = "session.x64quantprecision"
"""Weights become unsigned, whose products with unsigned values are summed exactly on every x86."""

SPIN_US, KNOWS_SPIN_TIME = "50", (1, 32)
"""How long threads wait for work before they sleep, and the first version of ONNX Runtime known to heed that."""

Providers = Mapping[str, Mapping[str, str]]
"""Execution providers with their options, the wanted one first."""
ON_CPU: Providers = {CPU: {}}


class OrtEngine:
    """A graph in ONNX Runtime on the CPU. May be run from several threads at once."""

    def __init__(self, path: Path | str, threads: int | None = None, *, lean: bool = False) -> None:
        """Load the ONNX file at `path`; raises EngineError.

        Args:
            threads: None is one for each core; counts where the process shares no pool, see `share_threads`.
            lean: as little memory as possible, for graphs that are run a few times: nothing is kept for the next run,
                and nodes run in the graph's own order, so that what is looked at early is gone early.
        """
        self.name = Path(path).stem
        self._session: Any = open_session(path, threads, lean=lean)
        self.inputs, self.outputs = ports(self._session)

    def run(self, feeds: Mapping[str, Array]) -> Tensors:
        """Input name to tensor -> output name to array. Raises EngineError naming the graph and what it was given."""
        arrays = {name: np.asarray(feed) for name, feed in feeds.items()}
        try:
            return dict(zip(self.outputs, self._session.run(self.outputs, arrays), strict=True))
        except Exception as error:
            raise failure(self.name, error, arrays) from None

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when it is done."""

    def close(self) -> None:
        """Let the session go."""
        self._session = None


def open_session(path: Path | str, threads: int | None, providers: Providers = ON_CPU, *, lean: bool = False) -> Any:
    """An `onnxruntime.InferenceSession` on the first of the providers; arguments as those of `OrtEngine`.

    Nodes that this provider has no kernel for go to the next one. That the provider itself is missing, or does not
    start, or fails later, never sends the graph to another one.

    Raises EngineError.
    """
    ort, name, wanted = onnxruntime(), Path(path).stem, next(iter(providers))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if lean:
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if clips_eight_bit_sums():
        options.add_session_config_entry(EXACT_EIGHT_BITS, "1")
    options.log_severity_level = 4  # errors reach the caller as exceptions; stderr stays free of them
    _give_threads(options, threads or usable_cores())
    if wanted not in available_providers():
        have = ", ".join(available_providers())
        raise EngineError(f"graph {name}: ONNX Runtime has no {wanted} here (it has {have}){_way_out(wanted)}")
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=list(providers.items()),
            disabled_optimizers=[UNSAFE_OPTIMIZER],
            enable_fallback=0,  # else it goes on without the provider whenever that fails, in later runs too
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise EngineError(f"graph {name}: cannot be loaded: {one_line(error)}") from None
    if wanted not in session.get_providers():  # with libraries missing it takes the next one without a word
        raise EngineError(f"graph {name}: ONNX Runtime could not start {wanted}{_way_out(wanted, started=False)}")
    return session


def _way_out(provider: str, *, started: bool = True) -> str:
    if provider != CUDA:
        return ""
    if started:
        return ": pip install 'agvas[gpu]' in place of agvas[cpu], or use --engine ort"
    libraries = "pip install 'agvas[gpu]' 'onnxruntime-gpu[cuda,cudnn]'"
    return f" (is there a GPU, and are CUDA's and cuDNN's libraries?): {libraries}, or use --engine ort"


def ports(session: Any) -> tuple[dict[str, tuple[str, list[Any]]], list[str]]:
    """A session's inputs, name to ONNX Runtime's type and shape, and the names of its outputs."""
    inputs = {spec.name: (spec.type, spec.shape) for spec in session.get_inputs()}
    return inputs, [spec.name for spec in session.get_outputs()]


def failure(name: str, error: Exception, feeds: Mapping[str, Array]) -> EngineError:
    """What ONNX Runtime said of a graph, in one line with what it was given."""
    given = ", ".join(f"{tensor} {feed.dtype}{list(feed.shape)}" for tensor, feed in feeds.items())
    return EngineError(f"graph {name}: {one_line(error)} (given {given})")


def available_providers() -> list[str]:
    """What this ONNX Runtime was built with, best first. Raises EngineError where it is not installed."""
    return list(onnxruntime().get_available_providers())


_shares_threads = False


def share_threads(threads: int | None) -> None:
    """Make one pool of this many threads (None: one for each core) for every graph of this process.

    With a pool each, graphs that run one after another are a sixth slower on idle cores; beside busy processes the
    shared pool is the slower one, since it spins: docs/experiments.md. Two graphs may run on it at once. Only for
    programs whose every use of ONNX Runtime is through agvas: from then on it refuses sessions that do not use the
    pool. The first call decides.
    """
    global _shares_threads
    if not _shares_threads:
        onnxruntime().set_global_thread_pool_sizes(threads or usable_cores(), 1)
        _shares_threads = True


def _give_threads(options: Any, threads: int) -> None:
    """Let a graph use the process's pool where there is one, else threads of its own.

    Those may spin for a moment only: they would take the cores from the next graph, and from other processes.
    """
    if _shares_threads:
        options.use_per_session_threads = False
        return
    options.intra_op_num_threads = threads
    if tuple(map(int, onnxruntime().__version__.split(".")[:2])) >= KNOWS_SPIN_TIME:
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def onnxruntime() -> Any:
    """The module. Raises EngineError where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        raise EngineError("ONNX Runtime is not installed: pip install agvas[cpu] or agvas[gpu]") from None
    return onnxruntime


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())
