"""Latency: contenders take turns frame by frame, so that whatever else the machine does hits all of them alike."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agvas_runtime.bench.frames import Frame
from agvas_runtime.engines.registry import OF_BUNDLES, Segments, ask, open_segmenter
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Request

PERCENTILES = (50, 90, 99)
WHOLE_CALL = "call"
"""Stage name of the whole call as its caller sees it; the other stages are what the engine reports."""
PLAIN = "-plain"
"""Behind the name of an engine of bundles: the same graphs, decoding token by token, no known answer tried."""


@dataclass(frozen=True)
class Contender:
    """One thing to measure: an engine with a bundle or checkpoint (None: the embedded one)."""

    name: str
    engine: str
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> "Contender":
        """From `[NAME=]ENGINE[:PATH]`. Raises InputError."""
        name, equals, rest = text.rpartition("=") if "=" in text.partition(":")[0] else ("", "", text)
        engine, _, path = rest.partition(":")
        if not engine or (equals and not name):
            raise InputError(f"contender {text!r}: must be [NAME=]ENGINE[:PATH]")
        return cls.of(engine, Path(path) if path else None, name)

    @classmethod
    def of(cls, engine: str, path: Path | None, name: str = "") -> "Contender":
        """A contender that is called `ENGINE:PATH` unless it has a name."""
        return cls(name or f"{engine}:{path or 'embedded'}", engine, path)

    @property
    def single_pass(self) -> bool:
        """Whether it tries the known answers in one pass."""
        return self.engine in OF_BUNDLES

    def open(self, threads: int | None) -> Segments:
        """Load it. Raises InputError, EngineError."""
        if not self.engine.endswith(PLAIN):
            return open_segmenter(self.engine, self.path, threads)
        from agvas_runtime.engines.ort import share_threads
        from agvas_runtime.segmenter import Segmenter

        share_threads(threads)
        return Segmenter.open(self.path, engine=self.engine.removesuffix(PLAIN), threads=threads, speculate=False)


@dataclass(frozen=True)
class Call:
    """One measured call.

    Attributes:
        frame_kind: what the frame is known to be.
        answer_kind: what the answer was.
        one_pass: whether the pass alone gave it.
        times_ms: every stage, and the whole call.
    """

    frame_kind: str | None
    answer_kind: str
    one_pass: bool
    times_ms: Mapping[str, float]


@dataclass
class Track:
    """What was measured of one contender."""

    contender: Contender
    segmenter: Segments
    load_ms: float
    request: Request = field(default_factory=Request)
    first_call_ms: float = float("nan")
    instruction: str = ""
    """What the model was asked, as it read it."""
    calls: list[Call] = field(default_factory=list)

    def call(self, frame: Frame, keep: bool = True) -> float:
        """Segment one frame; its times are kept unless it is for warming up. Returns the whole call's time in ms."""
        begin = time.perf_counter()
        result = ask(self.segmenter, frame.data, self.request)
        elapsed_ms = (time.perf_counter() - begin) * 1e3
        self.instruction = result.instruction
        if keep:
            times = {**result.timings_ms, WHOLE_CALL: elapsed_ms}
            self.calls.append(Call(frame.kind, result.answer_kind.value, result.one_pass, times))
        return elapsed_ms

    def report(self) -> dict[str, Any]:
        """Percentiles per stage, throughput of one caller, and what the answers were."""
        whole = [call.times_ms[WHOLE_CALL] for call in self.calls]
        return {
            "name": self.contender.name,
            "engine": self.contender.engine,
            "model": str(self.contender.path) if self.contender.path else "embedded",
            "weights": self.segmenter.weights_note,
            "mode": self.request.mode.value,
            "instruction": self.instruction,
            "load_ms": self.load_ms,
            "first_call_ms": self.first_call_ms,
            "frames": len(whole),
            "frames_per_s": 1e3 * len(whole) / sum(whole),
            "outcomes": dict(Counter(call.answer_kind for call in self.calls)),
            "stages_ms": stages(self.calls),
        }


def open_track(contender: Contender, threads: int | None, request: Request = Request()) -> Track:
    """Load a contender, timed. Raises InputError, EngineError."""
    begin = time.perf_counter()
    segmenter = contender.open(threads)
    return Track(contender, segmenter, (time.perf_counter() - begin) * 1e3, request)


def race(tracks: Sequence[Track], frames: Sequence[Frame], warmup: int, turns: Iterable[int]) -> None:
    """First calls, then `warmup` calls, then one kept call of every contender per turn; who begins changes by turn."""
    for track in tracks:
        track.first_call_ms = track.call(frames[0], keep=False)
    for turn in range(warmup):
        for track in tracks:
            track.call(frames[turn % len(frames)], keep=False)
    for turn in turns:
        for place in range(len(tracks)):
            tracks[(turn + place) % len(tracks)].call(frames[turn % len(frames)])


def stages(calls: Sequence[Call]) -> dict[str, dict[str, float]]:
    """Percentiles and mean of every stage, in milliseconds."""
    names = dict.fromkeys(stage for call in calls for stage in call.times_ms)
    return {stage: _percentiles([c.times_ms[stage] for c in calls if stage in c.times_ms]) for stage in names}


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {
        **{f"p{q}": float(value) for q, value in zip(PERCENTILES, found, strict=True)},
        "mean": float(np.mean(values)),
    }
