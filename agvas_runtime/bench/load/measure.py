"""A whole measurement: the steps that are asked for, and how many cameras are carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from agvas_runtime import console
from agvas_runtime.bench.load.outcome import check_answered, describe_step, outcomes_of
from agvas_runtime.bench.load.pictures import Picture, described
from agvas_runtime.bench.load.ramp import search
from agvas_runtime.bench.load.schedule import Camera, dealt
from agvas_runtime.bench.load.step import CONNECTION_LOST, Load, Target, run_step
from agvas_runtime.bench.load.table import remarks
from agvas_runtime.bench.machine import describe_machine


def empty_report(target: Target, load: Load, pictures: Sequence[Picture], policy: str | None) -> dict[str, Any]:
    """The head of a report without any step so far; `policy` is of our streams, None by another protocol."""
    began = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = ("address", "protocol", "model", "model_sha256")
    return {
        "schema": 3,
        "kind": "serve",
        "began": began,
        "machine": describe_machine(),
        "target": {name: getattr(target, name) for name in names},
        "load": {**asdict(load), "arrivals": load.arrivals.value, "policy": policy, "frame": described(pictures)},
        "steps": [],
        "carried": None,
    }


def measure(
    target: Target, cameras: Sequence[Camera], load: Load, most: int | None, steps: list[dict[str, Any]]
) -> dict[str, int | None] | None:
    """Put the load on the server, and every finished step into `steps`, which keeps them whatever happens then.

    Args:
        target: the server.
        cameras: of the only step; with `most` the kinds that are dealt in turn, to find how many are carried.
        load: how they send, and what has to be kept.
        most: cameras of the largest step; None for one step of `cameras`.
        steps: where the steps go.

    Returns:
        `carried` of the report.

    Raises:
        InputError, EngineError: nothing could be measured in a step, or the server is gone behind it.
    """

    def step(of: Sequence[Camera]) -> bool:
        # A bar that moves would take the interpreter from the cameras' threads.
        console.note(f"{len(of)} {'camera' if len(of) == 1 else 'cameras'} for {load.warmup_s + load.seconds:g} s")
        outcomes = [outcomes_of(run) for run in run_step(target, of, load)]
        check_answered(target.address, outcomes)
        steps.append(describe_step(of, outcomes, load))
        for line in remarks(steps[-1], outcomes, load):
            console.note(line)
        if CONNECTION_LOST in steps[-1]["statuses"]:
            target.check()  # a server that is gone does not tell how much it carries
        return steps[-1]["held"] is not False

    if most is None:
        step(cameras)
        return None
    carried, first_broken = search(lambda count: step(dealt(cameras, count)), most)
    return {"cameras": carried, "first_broken": first_broken}
