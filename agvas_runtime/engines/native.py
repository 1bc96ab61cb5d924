"""Opens a bundle's engines: all graphs in ONNX Runtime, on the CPU or on CUDA, or the planned ones in TensorRT."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from agvas_runtime.bundle import Bundle
from agvas_runtime.engines import Engine
from agvas_runtime.engines.device import probe
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.engines.ort_bound import BoundEngine
from agvas_runtime.engines.records import Target
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.engines.store import find_plan, plan_of
from agvas_runtime.engines.tensorrt_run import TrtEngine
from agvas_runtime.engines.tensorrt_session import Session
from agvas_runtime.errors import EngineError, InputError


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
    engine: str,
    graphs: Sequence[str],
    threads: int | None = None,
    plans: Mapping[str, mmap.mmap] | None = None,
) -> dict[str, Engine]:
    """Engines for graphs of a bundle. A graph runs where it was asked to run, or nothing is opened.

    Args:
        bundle: for "tensorrt" exported with an engine plan.
        engine: "ort", every graph in ONNX Runtime on the CPU; "ort-cuda", every graph in ONNX Runtime on CUDA;
            "tensorrt", the graphs of the engine plan in TensorRT, the others in ONNX Runtime on CUDA.
        graphs: their names.
        threads: of ONNX Runtime on the CPU; None takes every core.
        plans: what `read_plans` gave, which is read here where None; closed in any case.

    Raises:
        InputError: there is no such engine, or the bundle has no engine plan.
        EngineError: a graph cannot be loaded; no GPU, no CUDA in ONNX Runtime or no TensorRT here; a native engine is
            missing, for another device, or does not load.
        BundleError: a plan is altered or lies where others could have put it.
    """
    try:
        if engine not in OF_BUNDLES:
            raise InputError(f"engine {engine!r} does not run bundles; expected {' or '.join(map(repr, OF_BUNDLES))}")
        if engine == "ort":
            return {name: OrtEngine(bundle.graph_path(name), threads) for name in graphs}
        if engine == "ort-cuda":
            return {name: BoundEngine(bundle.graph_path(name), threads) for name in graphs}
        plans = read_plans(bundle, graphs) if plans is None else plans
        return _with_plans(bundle, graphs, threads, plans)
    finally:
        for plan in (plans or {}).values():
            plan.close()


def _with_plans(
    bundle: Bundle, graphs: Sequence[str], threads: int | None, plans: Mapping[str, mmap.mmap]
) -> dict[str, Engine]:
    engines: dict[str, Engine] = {
        name: BoundEngine(bundle.graph_path(name), threads) for name in graphs if name not in plans
    }
    session = Session()
    try:
        engines.update({name: TrtEngine(name, plans[name], session) for name in graphs if name in plans})
    except BaseException:
        with suppress(EngineError):  # the first error says more
            session.close()
        raise
    return engines
