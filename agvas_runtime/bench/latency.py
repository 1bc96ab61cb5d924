"""Latency: contenders take turns frame by frame, so that whatever else the machine does hits all of them alike."""

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from agvas_runtime import console
from agvas_runtime.bench.by_turns import ByTurns
from agvas_runtime.bench.contenders import Contender
from agvas_runtime.bench.elsewhere import Elsewhere
from agvas_runtime.bench.figures import BOUT, figures
from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.yardstick import Yardstick
from agvas_runtime.engines.registry import Segments, ask
from agvas_runtime.modes import Request
from agvas_runtime.result import Result

WHOLE_CALL = "call"
"""Stage name of the whole call as its caller sees it; the other stages are what the engine reports."""


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
    request: Request = field(default_factory=Request)
    instruction: str = ""
    """What the model was asked, as it read it."""
    calls: list[Call] = field(default_factory=list)

    @property
    def ms_per_frame(self) -> float:
        """Mean time of the kept calls."""
        return sum(call.times_ms[WHOLE_CALL] for call in self.calls) / len(self.calls)

    def ask(self, frame: Frame) -> Result:
        """Segment one frame. Raises InputError, EngineError."""
        return ask(self.segmenter, frame.data, self.request)

    def call(self, frame: Frame, keep: bool = True) -> float:
        """Segment one frame; its times are kept unless it is for warming up. Returns the whole call's time in ms."""
        begin = time.perf_counter()
        result = self.ask(frame)
        elapsed_ms = (time.perf_counter() - begin) * 1e3
        self.instruction = result.instruction
        if keep:
            times = {**result.timings_ms, WHOLE_CALL: elapsed_ms}
            self.calls.append(Call(frame.kind, result.answer_kind.value, result.one_pass, times))
        return elapsed_ms


def open_track(contender: Contender, threads: int | None, request: Request = Request()) -> Track:
    """Load a contender. Raises InputError, EngineError."""
    return Track(contender, contender.open(threads), request)


def race(
    tracks: Sequence[Track],
    frames: Sequence[Frame],
    warmup: int,
    turns: int,
    spread_s: float = 0.0,
    by_turns: ByTurns = ByTurns(None),
) -> dict[str, list[float]]:
    """First calls, then `warmup` calls, then one kept call of every contender per turn, in an order drawn by lot.

    Bouts of BOUT turns begin evenly over `spread_s` seconds, or one after the other where they take longer than that:
    a machine that is shared is slow for seconds at a time. Each bout begins with a call of every contender that is not
    kept, and is one turn of `by_turns`.

    Returns what the machine did: `bouts_began_s`, when each bout began, in seconds of Unix time; turn by turn
    `yardstick_ms`, how long the same piece of work took before it, and `elsewhere_ms`, the processor time that others
    had during it. Raises InputError, EngineError.
    """
    with by_turns.turn():
        for track in tracks:
            track.call(frames[0], keep=False)
        for turn in range(warmup):
            for track in tracks:
                track.call(frames[turn % len(frames)], keep=False)
    yardstick, elsewhere = Yardstick(), Elsewhere()
    machine: dict[str, list[float]] = {"bouts_began_s": [], "yardstick_ms": [], "elsewhere_ms": []}
    lots, order, left = random.Random(0), list(tracks), iter(console.progress(range(turns), "frames", turns))
    began, bouts = time.perf_counter(), math.ceil(turns / BOUT)
    for bout in range(bouts):
        time.sleep(max(0.0, began + bout * spread_s / bouts - time.perf_counter()))
        with by_turns.turn():
            for track in tracks:
                track.call(frames[bout * BOUT % len(frames)], keep=False)
            elsewhere.measure()
            machine["bouts_began_s"].append(round(time.time(), 3))
            for turn in islice(left, BOUT):
                lots.shuffle(order)  # by turns, some frames would always meet the same order
                machine["yardstick_ms"].append(round(yardstick.measure(), 4))
                for track in order:
                    track.call(frames[turn % len(frames)])
                machine["elsewhere_ms"].append(round(elsewhere.measure(), 4))
    return machine


def stages(calls: Sequence[Call]) -> dict[str, dict[str, float]]:
    """Figures of every stage, in milliseconds."""
    return {
        stage: figures([call.times_ms[stage] for call in calls if stage in call.times_ms]) for stage in _names(calls)
    }


def samples(calls: Sequence[Call]) -> dict[str, Any]:
    """Everything that was measured, turn by turn; None where a call had no such stage."""
    return {
        "frame_kind": [call.frame_kind for call in calls],
        "answer_kind": [call.answer_kind for call in calls],
        "one_pass": [call.one_pass for call in calls],
        "times_ms": {
            stage: [round(call.times_ms[stage], 4) if stage in call.times_ms else None for call in calls]
            for stage in _names(calls)
        },
    }


def _names(calls: Sequence[Call]) -> list[str]:
    return list(dict.fromkeys(stage for call in calls for stage in call.times_ms))
