"""Which engine runs a bundle here, and making its native engines where they are missing."""

import threading
from pathlib import Path

from agvas_runtime import console
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.pipeline import GRAPHS
from agvas_runtime.segmenter import Segmenter

AUTO = "auto"
LOOK_AGAIN_S = 1.0
"""How long to wait before asking again whether another process is done building."""


class Stopped(Exception):
    """Whoever asked for engines does not want them any more."""


def open_bundle(
    wanted: str, path: Path | None, threads: int | None = None, build_unless: threading.Event | None = None
) -> Segmenter:
    """Open a bundle with an engine.

    Args:
        wanted: ort; ort-cuda; tensorrt; or auto: TensorRT where the bundle was made for it and the engines can be had,
            else ONNX Runtime on the CPU, after one note that says why.
        path: the bundle's folder; the embedded one when None.
        threads: of ONNX Runtime on the CPU; None takes every core.
        build_unless: set where building is to stop. Native engines that are missing are only built where this is given.

    Raises:
        InputError: the engine is unknown, or the bundle was not made for it.
        BundleError: the bundle is refused, or its engines are.
        EngineError: the engines are missing and are not to be built, or cannot be built; or CUDA is not here.
        Stopped: `build_unless` was set while engines were being built.
    """
    if wanted not in (AUTO, *OF_BUNDLES):
        raise InputError(f"--engine: found {wanted!r}, expected {', '.join((AUTO, *OF_BUNDLES))}")
    bundle = Bundle.open(path or default_bundle_path())
    if wanted == AUTO and bundle.manifest.engine_plan is None:
        wanted = "ort"
    if wanted not in (AUTO, "tensorrt"):
        return Segmenter.of(bundle, engine=wanted, threads=threads)
    try:
        return _native(bundle, threads, build_unless)
    except (EngineError, BundleError) as error:
        if wanted != AUTO:
            raise
        console.note(f"ONNX Runtime runs this bundle on the CPU, which was made for TensorRT: {error}")
        return Segmenter.of(bundle, threads=threads)


def _native(bundle: Bundle, threads: int | None, build_unless: threading.Event | None) -> Segmenter:
    """The bundle on its native engines; those that are missing are built first where that is wanted."""
    from agvas_runtime.engines.native import read_plans

    try:
        plans = read_plans(bundle, GRAPHS)
    except (EngineError, BundleError):
        if build_unless is None:
            raise
        build_missing(bundle, build_unless)
        plans = read_plans(bundle, GRAPHS)
    return Segmenter.of(bundle, engine="tensorrt", threads=threads, plans=plans)


def build_missing(bundle: Bundle, stopped: threading.Event) -> None:
    """Build the engines that this device lacks, telling each; waits for another process that builds them.

    Raises what `build_engines` raises, and Stopped once the event is set.
    """
    from agvas_runtime.engines.store import build_engines

    told: set[str] = set()

    def tell(message: str) -> None:
        if message not in told:
            told.add(message)
            console.note(message)

    def report(graph: str, phase: str, done: float) -> None:
        if stopped.is_set():
            raise Stopped
        tell(f"building engine {graph}")

    def waiting() -> None:
        tell(f"{bundle.folder}: waiting for another process that builds its engines")
        if stopped.wait(LOOK_AGAIN_S):
            raise Stopped

    for built in build_engines(bundle, report=report, waiting=waiting):
        if not built.kept:
            console.note(f"built engine {built.graph}: {built.entry.size / 1e6:.2f} MB, {built.entry.seconds:.1f} s")
        if stopped.is_set():
            raise Stopped
