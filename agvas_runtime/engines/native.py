"""Opens a bundle's engines: TensorRT where its plan says so, ONNX Runtime for the rest."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agvas_runtime import console
from agvas_runtime.bundle import Bundle
from agvas_runtime.engines import Engine
from agvas_runtime.engines.device import probe
from agvas_runtime.engines.ort import CPU, CUDA, OrtEngine, available_providers
from agvas_runtime.engines.records import Target
from agvas_runtime.engines.store import find_plan, plan_of
from agvas_runtime.engines.tensorrt_run import TrtEngine
from agvas_runtime.engines.tensorrt_session import Session
from agvas_runtime.errors import EngineError


def read_plans(bundle: Bundle, graphs: Sequence[str] | None = None) -> dict[str, mmap.mmap]:
    """The plans of these graphs (None: all) that are to run natively here, each mapped from its verified file.

    Raises:
        InputError: the bundle has no engine plan.
        EngineError: no GPU or TensorRT here, or a plan is missing or for another device, graph or size.
        BundleError: a plan is altered or lies where others could have put it.
    """
    wanted = plan_of(bundle)
    target = Target.of(probe())
    names = wanted.graphs if graphs is None else [name for name in graphs if name in wanted.graphs]
    return {name: _mapped(find_plan(bundle, target, name)[0]) for name in names}


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None


def open_engines(
    bundle: Bundle,
    graphs: Sequence[str] | None = None,
    threads: int | None = None,
    plans: Mapping[str, mmap.mmap] | None = None,
) -> dict[str, Engine]:
    """Engines for these graphs of the bundle (None: all): TensorRT where its plan says so, ONNX Runtime for the rest.

    ONNX Runtime uses CUDA where it can be had, else the CPU with this many threads.

    Args:
        bundle: exported with an engine plan.
        graphs: their names.
        threads: of ONNX Runtime on the CPU; None takes every core.
        plans: what `read_plans` gave, which is read here where None; closed in any case.

    Raises:
        InputError: the bundle has no engine plan.
        EngineError: no GPU or TensorRT here, or an engine is missing, for another device, or does not load.
        BundleError: a plan is altered or lies where others could have put it.
    """
    names = list(bundle.manifest.graphs) if graphs is None else list(graphs)
    plans = read_plans(bundle, names) if plans is None else plans
    engines: dict[str, Engine] = {}
    session = Session()
    try:
        for name in names:
            if name in plans:
                engines[name] = TrtEngine(name, plans[name], session)
            else:
                engines[name] = ort_engine(bundle.graph_path(name), threads)
    except BaseException:
        with suppress(EngineError):  # the first error says more
            session.close()
        raise
    finally:
        for plan in plans.values():
            plan.close()
    return engines


def ort_engine(path: Path, threads: int | None) -> OrtEngine:
    """A graph in ONNX Runtime on CUDA; on the CPU where there is none, after a note where it should be there."""
    if CUDA in available_providers():
        try:
            return OrtEngine(path, threads, (CUDA, CPU))
        except EngineError as error:
            console.note(f"{error}; the CPU runs this graph")
    return OrtEngine(path, threads)
