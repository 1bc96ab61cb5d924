"""From an engine's name to something that segments: ONNX Runtime here, others through entry points `agvas.engines`."""

import os
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.result import Result
from agvas_runtime.verdict import Recipe

GROUP = "agvas.engines"
OF_BUNDLES = ("ort", "ort-cuda", "tensorrt")
"""Engines of bundles: ONNX Runtime on the CPU, on CUDA, and TensorRT; those of the entry points run checkpoints."""
EXTRAS = {"reference": "train", "compiled-decode": "train"}
"""Which extra of the distribution brings an engine's packages."""


class Segments(Protocol):
    """Anything that segments an image: the segmenter, or the routes in PyTorch."""

    weights_note: str
    """What has to be said beside its figures, see `manifest.weights_note`."""

    def segment(
        self,
        image: NDArray[np.uint8] | bytes | Path,
        instruction: str | None = None,
        recipe: Recipe | None = None,
        *,
        mode: Mode = Mode.DIRECT,
        class_name: str | None = None,
        normal_look: str | None = None,
    ) -> Result:
        """RGB uint8 [H,W,3] or grey [H,W], encoded bytes or a file -> its result. Raises InputError or EngineError.

        What is asked is a `modes.Request` in its parts.
        """
        ...


def engine_names() -> list[str]:
    """The engines that can be named, ours first."""
    return [*OF_BUNDLES, *sorted(point.name for point in entry_points(group=GROUP) if point.name not in OF_BUNDLES)]


def ask(segmenter: Segments, image: NDArray[np.uint8] | bytes | Path, request: Request) -> Result:
    """Segment an image with a request. Raises InputError or EngineError."""
    return segmenter.segment(
        image,
        request.instruction,
        mode=request.mode,
        class_name=request.class_name,
        normal_look=request.normal_look,
    )


def open_segmenter(engine: str, path: Path | None = None, threads: int | None = None) -> Segments:
    """Open a bundle (`OF_BUNDLES`) or a checkpoint (others) for a command of ours; None opens the embedded one.

    Raises InputError or EngineError.
    """
    if engine in OF_BUNDLES:
        from agvas_runtime.engines.ort import share_threads
        from agvas_runtime.segmenter import Segmenter

        share_threads(threads)
        return Segmenter.open(path, engine=engine, threads=threads)
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    if engine not in points:
        close = get_close_matches(engine, engine_names(), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(engine_names())}"
        raise InputError(f"unknown engine {engine!r}: {hint}")
    # PyTorch's threads wait by spinning: where anybody else needs a core too, that costs many times the work itself
    # (measured: 50 times). Read once, when PyTorch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        opener: Any = points[engine].load()
    except ImportError as error:
        extra = f"agvas[{EXTRAS[engine]}]" if engine in EXTRAS else "the package that brings it"
        raise InputError(f"engine {engine!r} is not installed: pip install {extra} ({error})") from None
    segmenter: Segments = opener(path, threads=threads)
    return segmenter
