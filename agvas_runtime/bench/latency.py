"""Latency: contenders take turns frame by frame, so that whatever else the machine does hits all of them alike."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agvas_runtime.engines.registry import Segments, ask, open_segmenter
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Request

PERCENTILES = (50, 90, 99)
WHOLE_CALL = "call"
"""Stage name of the whole call as its caller sees it; the other stages are what the engine reports."""


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


@dataclass
class Track:
    """What was measured of one contender, in milliseconds."""

    contender: Contender
    segmenter: Segments
    load_ms: float
    request: Request = field(default_factory=Request)
    first_call_ms: float = float("nan")
    instruction: str = ""
    """What the model was asked, as it read it."""
    stages: dict[str, list[float]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)

    def call(self, frame: bytes, keep: bool = True) -> float:
        """Segment one frame; its times are kept unless it is for warming up. Returns the whole call's time in ms."""
        begin = time.perf_counter()
        result = ask(self.segmenter, frame, self.request)
        elapsed_ms = (time.perf_counter() - begin) * 1e3
        self.instruction = result.instruction
        if keep:
            self.outcomes[result.answer_kind.value] += 1
            for stage, value in {**result.timings_ms, WHOLE_CALL: elapsed_ms}.items():
                self.stages.setdefault(stage, []).append(value)
        return elapsed_ms

    def report(self) -> dict[str, Any]:
        """Percentiles per stage, throughput of one caller, and what the answers were."""
        calls = self.stages[WHOLE_CALL]
        return {
            "name": self.contender.name,
            "engine": self.contender.engine,
            "model": str(self.contender.path) if self.contender.path else "embedded",
            "weights": self.segmenter.weights_note,
            "mode": self.request.mode.value,
            "instruction": self.instruction,
            "load_ms": self.load_ms,
            "first_call_ms": self.first_call_ms,
            "frames": len(calls),
            "frames_per_s": 1e3 * len(calls) / sum(calls),
            "outcomes": dict(self.outcomes),
            "stages_ms": {stage: _percentiles(values) for stage, values in self.stages.items()},
        }


def open_track(contender: Contender, threads: int | None, request: Request = Request()) -> Track:
    """Load a contender, timed. Raises InputError, EngineError."""
    begin = time.perf_counter()
    segmenter = open_segmenter(contender.engine, contender.path, threads)
    return Track(contender, segmenter, (time.perf_counter() - begin) * 1e3, request)


def race(tracks: Sequence[Track], frames: Sequence[bytes], warmup: int, turns: Iterable[int]) -> None:
    """First calls, then `warmup` calls, then one kept call of every contender per turn; who begins changes by turn."""
    for track in tracks:
        track.first_call_ms = track.call(frames[0], keep=False)
    for turn in range(warmup):
        for track in tracks:
            track.call(frames[turn % len(frames)], keep=False)
    for turn in turns:
        for place in range(len(tracks)):
            tracks[(turn + place) % len(tracks)].call(frames[turn % len(frames)])


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {
        **{f"p{q}": float(value) for q, value in zip(PERCENTILES, found, strict=True)},
        "mean": float(np.mean(values)),
    }
