"""From an engine's name to something that segments: ONNX Runtime here, others through entry points `agvas.engines`."""

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.result import Result

GROUP = "agvas.engines"
EXTRAS = {"reference": "train"}
"""Which extra of the distribution brings an engine's packages."""


class Segments(Protocol):
    """Anything that segments an image: the segmenter, or the reference route."""

    def segment(self, image: NDArray[np.uint8] | bytes | Path, instruction: str | None = None) -> Result:
        """RGB uint8 [H,W,3], encoded bytes or a file -> its result. Raises InputError or EngineError."""
        ...


def engine_names() -> list[str]:
    """The engines that can be named, ours first."""
    return ["ort", *sorted(point.name for point in entry_points(group=GROUP) if point.name != "ort")]


def open_segmenter(engine: str, path: Path | None = None, threads: int | None = None) -> Segments:
    """Open a bundle (`ort`) or a checkpoint (others) for a command of ours; None opens the embedded one.

    Raises InputError or EngineError.
    """
    if engine == "ort":
        from agvas_runtime.engines.ort import share_threads
        from agvas_runtime.segmenter import Segmenter

        share_threads(threads)
        return Segmenter.open(path, engine="ort", threads=threads)
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    if engine not in points:
        close = get_close_matches(engine, engine_names(), 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(engine_names())}"
        raise InputError(f"unknown engine {engine!r}: {hint}")
    try:
        opener: Any = points[engine].load()
    except ImportError as error:
        extra = f"agvas[{EXTRAS[engine]}]" if engine in EXTRAS else "the package that brings it"
        raise InputError(f"engine {engine!r} is not installed: pip install {extra} ({error})") from None
    segmenter: Segments = opener(path, threads=threads)
    return segmenter
