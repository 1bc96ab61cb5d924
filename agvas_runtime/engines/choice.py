"""Which engine runs a bundle here, and making its native engines where they are missing."""

from pathlib import Path

from agvas_runtime import console
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import EngineError, InputError

AUTO = "auto"


def choose_engine(wanted: str, bundle: Path | None) -> str:
    """`ort` or `tensorrt`. "auto" is TensorRT where the bundle was made for it and this machine has what it takes.

    Args:
        wanted: auto, ort or tensorrt.
        bundle: its folder; the embedded one, which is not made for TensorRT, when None.

    Raises:
        InputError: the engine is unknown.
        BundleError: the bundle is refused.
    """
    if wanted not in (AUTO, *OF_BUNDLES):
        raise InputError(f"--engine: found {wanted!r}, expected {', '.join((AUTO, *OF_BUNDLES))}")
    if wanted != AUTO:
        return wanted
    if bundle is None or Bundle.open(bundle).manifest.engine_plan is None:
        return "ort"
    from agvas_runtime.engines.device import probe

    try:
        probe()
    except EngineError as error:
        console.note(f"ONNX Runtime runs this bundle, which was made for TensorRT: {error}")
        return "ort"
    return "tensorrt"


def build_missing(bundle: Path | None) -> None:
    """Build the engines that this device lacks, telling each. Raises what `build_engines` raises."""
    from agvas_runtime.engines.store import build_engines

    for built in build_engines(Bundle.open(bundle or default_bundle_path())):
        if not built.kept:
            console.note(f"built engine {built.graph}: {built.entry.size / 1e6:.2f} MB, {built.entry.seconds:.1f} s")
