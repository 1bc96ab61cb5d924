"""The measurement behind `agvas-bench engine`: contenders side by side, and the report of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from agvas_runtime import console
from agvas_runtime.bench.alone import measure_alone
from agvas_runtime.bench.by_turns import ByTurns
from agvas_runtime.bench.contenders import Contender
from agvas_runtime.bench.frames import Frame, bench_frames
from agvas_runtime.bench.groups import base_of, in_groups, trie_cost
from agvas_runtime.bench.latency import Track, open_track, race, samples, stages
from agvas_runtime.bench.machine import describe_machine
from agvas_runtime.bench.quality import compare_masks, data_figures
from agvas_runtime.bench.throughput import measure_throughput
from agvas_runtime.datasets import load_dataset
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.modes import Request

SCHEMA = 3

Figures = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What is measured of every contender."""

    images: Sequence[Path] = ()
    """Files and folders; eight generated frames where there are none."""
    frames: int = 200
    """Measured ones of each contender."""
    warmup: int = 20
    """Frames before them that are not counted."""
    spread_s: float = 0.0
    """Over how long the measured ones are spread, at least."""
    by_turns: Path | None = None
    """A file that other processes name, too, which measure at the same time."""
    threads: int | None = None
    """On the CPU; None is one for each core."""
    batches: Sequence[int] = (1,)
    """Sizes of which the throughput is measured."""
    alone: bool = True
    """Measure each in a process of its own too."""
    data: Path | None = None
    """A data set to score."""
    limit: int | None = None
    """Its images of each category, evenly spread."""
    request: Request = field(default_factory=Request)


def bench_engines(
    contenders: Sequence[Contender], options: Options = Options(), failed: list[BaseException] | None = None
) -> dict[str, Any]:
    """Measure the contenders side by side and return the report; undefined numbers in it are NaN.

    Args:
        contenders: what takes turns.
        options: what is measured.
        failed: what keeps `data` or `alone`, the last ones, from being measured goes there, an interrupt too, and they
            are None in the report. Where this is None it is raised.

    Raises InputError, EngineError.
    """
    options.request.check()
    if options.limit is not None and options.data is None:
        raise InputError("--limit needs --data, whose images it limits")
    frames = bench_frames(options.images)
    head = {
        "schema": SCHEMA,
        "kind": "engine",
        "began": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": describe_machine(),  # its load average is that of before the measurement
        "frames": options.frames,
        "warmup": options.warmup,
        "spread_s": options.spread_s,
        "threads": options.threads,
        "images": [str(path) for path in options.images] or "generated",
        "frame_bytes_mean": sum(len(frame.data) for frame in frames) / len(frames),
    }
    by_turns = ByTurns(options.by_turns)
    found = _together(contenders, frames, options, by_turns, failed)  # what they had loaded is gone by now
    for each, contender in zip(found["contenders"], contenders, strict=True):
        if options.alone:
            work = partial(measure_alone, contender, frames, options.threads, options.request)
            each["alone"] = _last(f"{contender.name}: alone", partial(_in_turn, by_turns, work), failed)
    return {**head, **found}


def _in_turn(by_turns: ByTurns, work: Callable[[], Figures]) -> Figures:
    with by_turns.turn():
        return work()


def _last(what: str, measure: Callable[[], Figures], failed: list[BaseException] | None) -> Figures | None:
    """What is measured last of a contender; None where that failed, and after an interrupt."""
    if failed and isinstance(failed[-1], KeyboardInterrupt):
        return None
    try:
        return measure()
    except (InputError, EngineError, OSError, KeyboardInterrupt) as error:
        if failed is None:
            raise
        failed.append(error.with_traceback(None))  # its frames hold what is loaded
        console.note(f"{what}: not measured: {console.one_line(str(error)) or 'interrupted'}")
        return None


def _together(
    contenders: Sequence[Contender],
    frames: Sequence[Frame],
    options: Options,
    by_turns: ByTurns,
    failed: list[BaseException] | None,
) -> dict[str, Any]:
    """All that is measured in this process, with all contenders loaded."""
    dataset = load_dataset(options.data) if options.data else None
    with by_turns.turn():
        tracks = [open_track(contender, options.threads, options.request) for contender in contenders]
    machine = race(tracks, frames, options.warmup, options.frames, options.spread_s, by_turns)
    base = base_of(tracks)
    with by_turns.turn():
        throughput = measure_throughput(tracks, frames, options.frames, options.batches)
        quality = compare_masks(tracks, frames[: options.frames])
        data = [
            _last(f"{track.contender.name}: data", partial(data_figures, track, dataset, options.limit), failed)
            if dataset
            else None
            for track in tracks
        ]
    results = [
        {
            **_told(track),
            "groups": in_groups(track, base),
            "throughput": throughput[index],
            "alone": None,
            "quality": quality[index],
            "data": data[index],
            "samples": samples(track.calls),
        }
        for index, track in enumerate(tracks)
    ]
    return {
        "base": base.contender.name,
        "trie": trie_cost(tracks),
        **machine,
        "contenders": results,
    }


def _told(track: Track) -> dict[str, Any]:
    """Who a contender is, what it was asked, what its answers were, its stages."""
    contender = track.contender
    return {
        "name": contender.name,
        "engine": contender.engine,
        "model": str(contender.path) if contender.path else "embedded",
        "model_sha256": contender.model_sha256,
        "weights": track.segmenter.weights_note,
        "mode": track.request.mode.value,
        "instruction": track.instruction,
        "frames": len(track.calls),
        "frames_per_s": 1e3 / track.ms_per_frame,
        "outcomes": dict(Counter(call.answer_kind for call in track.calls)),
        "stages_ms": stages(track.calls),
    }
