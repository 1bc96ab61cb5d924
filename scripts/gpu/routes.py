"""The routes that decode token by token, as users get them: `reference` and `compiled-decode`, image in, result out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from common import images
from timing import fresh_memory, memory

from agvas_train.checkpoint import Checkpoint
from agvas_train.compiled_decode import CompiledDecodeSegmenter
from agvas_train.reference import ReferenceSegmenter


def route(found: dict[str, Any], segmenter: ReferenceSegmenter, *, frames: int, warm: int = 1) -> None:
    """Wall-clock milliseconds a frame, of every stage too, and memory; the first calls are told apart."""
    shown = list(images(frames + warm))
    fresh_memory()
    began = time.perf_counter()
    for image in shown[:warm]:
        segmenter.segment(image)
    found["first_calls_s"] = round(time.perf_counter() - began, 2)
    found["memory_of_first_calls"] = memory()
    fresh_memory()
    times, stages, answers = [], [], []
    for image in shown[warm:]:
        began = time.perf_counter()
        result = segmenter.segment(image)
        times.append((time.perf_counter() - began) * 1e3)
        stages.append(result.timings_ms)
        answers.append(result.answer)
    found |= {"ms": round(float(np.median(times)), 2), "max_ms": round(max(times), 2), "frames": frames}
    found["stages_ms"] = {name: round(float(np.median([each[name] for each in stages])), 2) for name in stages[0]}
    found["answers"] = sorted(set(answers))
    found["memory"] = memory()


def reference(found: dict[str, Any], checkpoint: Checkpoint, frames: int) -> None:
    """The paper's way, in plain PyTorch."""
    route(found, ReferenceSegmenter(checkpoint, template_scores=False), frames=frames)


def compiled_decode(found: dict[str, Any], checkpoint: Checkpoint, frames: int) -> None:
    """The same compiled; its first call compiles."""
    route(found, CompiledDecodeSegmenter(checkpoint, template_scores=False), frames=frames, warm=2)
