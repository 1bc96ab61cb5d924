"""The figures of a step: what became of every frame that counts, for all cameras and for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agvas_runtime.bench.figures import figures
from agvas_runtime.bench.load.schedule import Camera
from agvas_runtime.bench.load.step import DROPPED, EXPIRED, INVALID, NO_ANSWER, OK, CameraRun, Load, Shot
from agvas_runtime.errors import EngineError, InputError

NEVER_MS = 1e12
"""Stands for the latency of a frame without a result where a target is to be kept."""


@dataclass(frozen=True)
class Outcome:
    """What became of a frame. Times in milliseconds.

    Attributes:
        due_s: from the begin of the seconds that count.
        status: OK, DROPPED, NO_ANSWER, ...
        latency_ms: from the moment it was due to its result; None without one.
        late_ms: how late the generator sent it; None where it never did.
        engine_ms: of it, the engine's own time, where the server tells it.
        overhead_ms: what passed between sending and answer beyond that.
        reason: why there is no result.
    """

    due_s: float
    status: str
    latency_ms: float | None = None
    late_ms: float | None = None
    engine_ms: float | None = None
    overhead_ms: float | None = None
    reason: str = ""

    def in_time(self, limit_ms: float | None) -> bool:
        """Whether it has its result by then; at all, where there is no limit."""
        return self.latency_ms is not None and (limit_ms is None or self.latency_ms <= limit_ms)


def outcomes_of(run: CameraRun) -> list[Outcome]:
    """What became of a camera's frames, those of the warm-up left out."""
    return [_outcome(shot, run.begin) for shot in run.shots if shot.due_s >= 0]


def check_answered(address: str, outcomes: Sequence[Sequence[Outcome]]) -> None:
    """Raise where nothing was measured: InputError if every frame was wrong, EngineError if none was answered."""
    every = [each for camera in outcomes for each in camera]
    if any(each.status in (OK, DROPPED, EXPIRED) for each in every):
        return
    reason = next((f": {each.reason}" for each in every if each.reason), "")
    statuses = ", ".join(f"{count} {status}" for status, count in Counter(each.status for each in every).items())
    error = InputError if all(each.status == INVALID for each in every) else EngineError
    raise error(f"{address}: none of {len(every)} frames was answered: {statuses}{reason}")


def describe_step(cameras: Sequence[Camera], outcomes: Sequence[Sequence[Outcome]], load: Load) -> dict[str, Any]:
    """A step of the report, from every camera's frames; there is at least one."""
    every = sorted(
        ((place, each) for place, camera in enumerate(outcomes) for each in camera), key=lambda pair: pair[1].due_s
    )
    frames = [each for _, each in every]
    each_camera = [_describe_camera(*pair) for pair in zip(cameras, outcomes, strict=True)]
    misses = sum(camera["misses"] for camera in each_camera)
    answered = [each.due_s + each.latency_ms / 1e3 for each in frames if each.latency_ms is not None]
    step = {
        "cameras": len(cameras),
        "offered_hz": len(frames) / load.seconds,
        "answered_hz": len(answered) / max([load.seconds, *answered]),
        "seconds": load.seconds,
        "sent": len(frames),
        "statuses": _statuses(frames),
        "held": None,
        "latency_ms": _figures([each.latency_ms for each in frames]),
        "sent_late_ms": _figures([each.late_ms for each in frames]),
        "engine_ms": _figures([each.engine_ms for each in frames]),
        "overhead_ms": _figures([each.overhead_ms for each in frames]),
        "misses": misses,
        "miss_share": misses / len(frames),
        "fairness": _fairness(each_camera),
        "per_camera": each_camera,
        "samples": {
            "camera": [place for place, _ in every],
            "due_s": [_rounded(each.due_s) for each in frames],
            "latency_ms": [_rounded(each.latency_ms) for each in frames],
            "overhead_ms": [_rounded(each.overhead_ms) for each in frames],
            "engine_ms": [_rounded(each.engine_ms) for each in frames],
            "status": [each.status for each in frames],
        },
    }
    if load.target_p99_ms is not None or load.max_miss_share is not None:
        step["held"] = not why_broken(step, load)
    return step


def why_broken(step: dict[str, Any], load: Load) -> str:
    """What of the target a step did not keep, in words; empty where it kept all."""
    reasons, latencies = [], step["samples"]["latency_ms"]
    if load.target_p99_ms is not None:
        p99 = figures([NEVER_MS if each is None else each for each in latencies])["p99"]
        if p99 > load.target_p99_ms:
            answered = step["latency_ms"]["p99"] if step["latency_ms"] else 0.0  # of the answered frames alone
            reasons += [f"it is {answered:.1f} ms"] if answered > load.target_p99_ms else []
            missing = latencies.count(None) / len(latencies)
            reasons += [f"{missing:.1%} of the frames have no result"] if missing else []
    if load.max_miss_share is not None and step["miss_share"] > load.max_miss_share:
        reasons.append(f"{step['miss_share']:.1%} of the deadlines are missed")
    return ", ".join(reasons)


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index of fairness: 1 if all have the same, 1 / n if one of n has everything, None if none has any.

    R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness (DEC-TR-301, 1984): (sum x)^2 / (n * sum x^2).
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def _outcome(shot: Shot, begin: float) -> Outcome:
    late_ms = None if shot.sent is None else shot.late_ms
    answer = shot.answer
    if answer is None:
        return Outcome(shot.due_s, NO_ANSWER, late_ms=late_ms)
    if answer.status != OK or shot.sent is None:
        return Outcome(shot.due_s, answer.status, late_ms=late_ms, reason=answer.reason)
    latency_ms, engine_ms = (answer.at - begin - shot.due_s) * 1e3, answer.engine_ms
    overhead_ms = None if engine_ms is None else (answer.at - shot.sent) * 1e3 - engine_ms
    return Outcome(shot.due_s, OK, latency_ms, late_ms, engine_ms, overhead_ms)


def _describe_camera(camera: Camera, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "name": camera.name,
        "rate_hz": camera.rate_hz,
        "deadline_ms": camera.deadline_ms,
        "sent": len(outcomes),
        "statuses": _statuses(outcomes),
        "latency_ms": _figures([each.latency_ms for each in outcomes]),
        "misses": sum(not each.in_time(camera.deadline_ms) for each in outcomes),
    }


def _fairness(each_camera: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Between the cameras that had frames to send."""
    shares = [1 - camera["misses"] / camera["sent"] for camera in each_camera if camera["sent"]]
    p99 = [camera["latency_ms"]["p99"] for camera in each_camera if camera["latency_ms"]]
    return {"jain": jain(shares), "worst_p99_ms": max(p99, default=None), "best_p99_ms": min(p99, default=None)}


def _statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of each, the most frequent first."""
    return dict(Counter(each.status for each in outcomes).most_common())


def _figures(values: Sequence[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return figures(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
