"""Does anything grow? Resident memory while frames of several sizes are asked everything: alone, together, streamed.

`python -m agvas_runtime.bench.growth --frames N` prints JSON; in a process of its own nothing else is counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from agvas_runtime.modes import Mode, Request
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.writer import Decoding

SIZES = ((256, 256), (480, 640), (33, 700), (1, 1), (1024, 768), (97, 131), (200, 300))
"""Heights and widths."""
SAMPLES = 100
"""How often memory is looked at."""
QUARTER = SAMPLES // 4
"""The first quarter warms up; the second is compared with the last, by its least and by its most."""
SHORT = Decoding(max_new_tokens=24)

Frames = Sequence[NDArray[np.uint8]]


def measure(path: Path | None, frames: int, names: int, threads: int | None) -> dict[str, Any]:
    """Resident bytes, in the second quarter and in the last, and by what share they grew.

    Args:
        path: bundle; None is the embedded one.
        frames: how many to segment.
        names: how many different classes are named; more than passes are kept prepared, if that is to be seen.
        threads: on the CPU.

    Raises InputError, EngineError.
    """
    segmenter = Segmenter.open(path, threads=threads)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
    process = psutil.Process()
    samples: list[int] = []
    done = calls = one_pass = 0
    while done < frames:
        some = [pictures[(calls + place) % len(pictures)] for place in range(3)]
        segmented, hits = _call(segmenter, calls, f"mark {calls // 10 % names}", some)
        done, one_pass, calls = done + segmented, one_pass + hits, calls + 1
        now = int(process.memory_info().rss)
        samples += [now] * (min(done * SAMPLES // frames, SAMPLES) - len(samples))
    warm, end = samples[QUARTER : 2 * QUARTER], samples[-QUARTER:]
    return {
        "frames": done,
        "answers_of_one_pass": one_pass,
        "class_names": names,
        "rss_warm_bytes": [min(warm), max(warm)],
        "rss_end_bytes": [min(end), max(end)],
        "grown": max(bound(end) / bound(warm) - 1 for bound in (min, max)),
        "rss_bytes": samples,
    }


def _call(segmenter: Segmenter, number: int, name: str, some: Frames) -> tuple[int, int]:
    """One call, another kind of it each time; how many frames it saw, and how many of their answers one pass gave."""
    kind = number % 10
    if kind in (0, 1):
        asked = (Request(), Request(Mode.DESCRIBE))[kind]
        results = segmenter.segment_batch(some[: 3 - kind], asked, decoding=SHORT)
    elif kind == 2:
        for _ in segmenter.stream(some[0], Request(Mode.EXPLAIN, class_name=name), decoding=SHORT):
            return 1, 0  # closed at the first event
    elif kind == 3:
        events = list(segmenter.stream(some[0], Request(Mode.DESCRIBE), decoding=SHORT))
        return 1, int(getattr(events[-1], "one_pass", False))
    else:
        asked, decoding = {
            4: (Request(Mode.GENERAL, class_name=name), SHORT),
            5: (Request(Mode.CONVERSATION, "What is in this image?"), SHORT),
            6: (Request(), Decoding(text=False)),
            7: (Request(class_name=name), SHORT),
            8: (Request(), Decoding(strict_below=1e9)),
            9: (Request(instruction="x"), Decoding(max_new_tokens=3)),
        }[kind]
        results = segmenter.segment_batch(some[:1], asked, decoding=decoding)
    return len(results), sum(result.one_pass for result in results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--names", type=int, default=1_000_000, help="different class names [default: always new ones]")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    print(json.dumps(measure(options.bundle, options.frames, options.names, options.threads)))
