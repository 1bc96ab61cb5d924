"""How an engine process becomes ready: it opens the bundle, warms up, and measures what frames cost together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from statistics import median
from time import perf_counter

import numpy as np

from agvas_runtime.console import note
from agvas_runtime.engines.choice import Stopped, open_bundle
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.modes import Request
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.server.engine.task import PAYS, EngineFacts, EngineSpec
from agvas_runtime.server.replies import model_reply

RUNS = 3
"""Of each size; their median counts."""
ALIKE = 1e-3
"""Most that a probability may differ where frames are segmented together: other kernels round otherwise, no more."""
LONG_MS = 2000.0
"""A frame that takes longer is measured once, and never among others."""
LEAST_BUDGET_S = 0.3
"""Measuring may take so long, or half as long as all that came before."""


def open_engine(spec: EngineSpec, stopping: threading.Event) -> tuple[Segmenter, EngineFacts]:
    """Open, building native engines that are missing, warm up and measure, as long as the event is not set.

    Raises what `open_bundle` raises, and InputError for a request to warm up for that is not usable.
    """
    begun = perf_counter()
    segmenter = open_bundle(spec.engine, spec.bundle, spec.threads, build_unless=stopping)
    try:
        model = model_reply(segmenter.bundle)
        if spec.bundle_sha256 not in ("", model.model.bundle_sha256):
            found = f"found {model.model.bundle_sha256[:12]}, expected {spec.bundle_sha256[:12]}"
            raise BundleError(
                f"{segmenter.bundle.folder}: the bundle was changed under the server: {found}; swap to it"
            )
        _unless(stopping)
        segmenter.warm([*spec.warm, Request()])
        _unless(stopping)
        budget_s = max(LEAST_BUDGET_S, (perf_counter() - begun) / 2)
        ms_per_frame = measure(segmenter, spec.max_batch, budget_s)
    except BaseException:
        segmenter.close()
        raise
    return segmenter, EngineFacts(
        pid=os.getpid(),
        model_reply=model.SerializeToString(),
        name=model.model.name,
        bundle_sha256=model.model.bundle_sha256,
        threshold=segmenter.manifest.model.threshold,
        ms_per_frame=ms_per_frame,
    )


def measure(segmenter: Segmenter, max_batch: int, budget_s: float) -> dict[int, float]:
    """Milliseconds a frame, by how many are segmented together: 1, 2, 4 and so on, and `max_batch`.

    Goes on while more pay, as far as the engines take so many, and the time suffices; not at all where a frame's answer
    depends on the others, as with scales that are taken from a whole batch: a part is judged alone. Raises EngineError,
    InputError where not even one frame can be segmented.
    """
    until = perf_counter() + budget_s
    canvas = segmenter.manifest.model.canvas
    frame = np.random.default_rng(0).integers(0, 40, (canvas, canvas, 3), np.uint8)

    def run_ms(count: int) -> float:
        begun = perf_counter()
        segmenter.segment_batch([frame] * count)
        return (perf_counter() - begun) * 1000 / count

    found = {1: run_ms(1)}
    if found[1] > LONG_MS:
        return found
    found[1] = median(run_ms(1) for _ in range(RUNS))
    for fewer, count in _sizes(max_batch):
        if perf_counter() + (RUNS + 1) * count * found[fewer] / 1000 > until:
            break
        try:
            if count == 2 and not apart_and_together_alike(segmenter):
                break
            run_ms(count)
            found[count] = median(run_ms(count) for _ in range(RUNS))
        except InputError:  # not built for so many
            break
        except EngineError as error:
            note(f"{count} frames at once: {error}")
            break
        if found[count] > PAYS * found[fewer]:
            break
    return found


def apart_and_together_alike(segmenter: Segmenter) -> bool:
    """Whether a dark and a bright frame are answered together as each is alone. Raises EngineError, InputError."""
    canvas, rng = segmenter.manifest.model.canvas, np.random.default_rng(1)
    frames = [rng.integers(0, bright, (canvas, canvas, 3), np.uint8) for bright in (40, 256)]
    alone = [segmenter.segment_batch([frame])[0] for frame in frames]
    return all(
        one.answer == other.answer
        and abs(one.scores.anomaly - other.scores.anomaly) <= ALIKE
        and float(np.abs(one.probability - other.probability).max()) <= ALIKE
        for one, other in zip(alone, segmenter.segment_batch(frames), strict=True)
    )


def _unless(stopping: threading.Event) -> None:
    if stopping.is_set():
        raise Stopped


def _sizes(max_batch: int) -> Iterator[tuple[int, int]]:
    """Each size behind 1, with the one before it."""
    fewer = 1
    while fewer < max_batch:
        yield fewer, min(2 * fewer, max_batch)
        fewer = min(2 * fewer, max_batch)
