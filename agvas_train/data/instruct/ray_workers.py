"""Workers on several machines, through Ray: they annotate and give back what came of it; who asked them writes it.

Every machine has agvas and Ray, and the data set at the same place. Nothing else here knows of Ray.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from agvas_runtime.errors import EngineError, InputError
from agvas_train.data.instruct.annotate import open_annotator
from agvas_train.data.instruct.endpoint import EndpointConfig
from agvas_train.data.instruct.gallery import NormalImages
from agvas_train.data.instruct.pipeline import Outcome, annotated
from agvas_train.data.instruct.tasks import Task

LOCAL = "local"
REACH_S = 10.0
"""In which the cluster must answer."""
START_S = 120.0
"""In which every worker must be there."""
AGAIN = 3
"""How often a worker that died is started again, and its image asked about again."""


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    root: Path
    """The data set, an absolute path."""
    normals: dict[str, list[Path]]
    """The normal images of each category."""
    config: EndpointConfig | None
    """None for the synthetic captions."""
    rate: float | None
    """Most requests a minute, of all workers together; each has its share of it."""
    max_side: int
    threads: int
    """Requests at a time, of one worker."""


class Worker:
    """Lives in a process of its own, wherever Ray puts it; any number of threads may call it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._normals = NormalImages(job.normals)
        self._annotator = open_annotator(job.config, job.root, job.rate, job.max_side) if job.root.exists() else None

    def missing(self) -> str:
        """What this worker's machine lacks; "" where it lacks nothing."""
        return "" if self._annotator else f"{self._job.root}: no such data set on {socket.gethostname()}"

    def annotate(self, task: Task) -> Outcome | Exception:
        """What came of a task, or what stops the whole run."""
        assert self._annotator
        try:
            return annotated(task, self._normals, self._annotator)
        except Exception as error:
            return error


@contextmanager
def ray_workers(address: str, count: int | None, job: Job) -> Iterator[tuple[Callable[[Task], Outcome], int]]:
    """Start workers in a cluster, or on this machine alone; they end with the block.

    Args:
        address: "local", or what ray.init takes: "auto", "HOST:PORT", "ray://HOST:PORT".
        count: how many workers; None means one a machine.
        job: what they do.

    Yields:
        What annotates a task on any worker that is free, for several threads to call, and how many may.

    Raises:
        InputError: there is no such cluster, or a machine lacks the data set.
        EngineError: Ray is not installed, or a worker did not start.
    """
    ray = _ray(address)
    try:
        _connect(ray, address, count)
        count = count or sum(bool(node["Alive"]) for node in ray.nodes())
        kind = ray.remote(
            num_cpus=1,
            max_concurrency=job.threads,
            max_restarts=AGAIN,
            max_task_retries=AGAIN,
            scheduling_strategy="SPREAD",
        )(Worker)
        job = replace(job, rate=job.rate and job.rate / count)
        workers = [kind.remote(job) for _ in range(count)]
        try:
            lacks = ray.get([worker.missing.remote() for worker in workers], timeout=START_S)
        except ray.exceptions.GetTimeoutError:
            raise EngineError(
                f"--ray: {count} workers were not there within {START_S:g} s; a CPU each is free?"
            ) from None
        except ray.exceptions.RayError as error:
            raise EngineError(f"--ray: a worker did not start: {str(error).splitlines()[-1]}") from None
        for lack in filter(None, lacks):
            raise InputError(f"--ray: {lack}; expected the data set at the same place on every machine")
        yield _caller(ray, workers, job.threads), count * job.threads
    finally:
        ray.shutdown()


def _caller(ray: Any, workers: list[Any], threads: int) -> Callable[[Task], Outcome]:
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(threads):
        for worker in workers:
            free.put(worker)

    def annotate(task: Task) -> Outcome:
        worker = free.get()
        try:
            outcome = ray.get(worker.annotate.remote(task))
        except ray.exceptions.RayError as error:
            return Outcome(task, None, f"Ray: {type(error).__name__}: its worker died", failed=True)
        finally:
            free.put(worker)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome  # type: ignore[no-any-return]

    return annotate


def _connect(ray: Any, address: str, count: int | None) -> None:
    _reach(address)
    own = {"num_cpus": count or 1, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(own if address == LOCAL else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--ray: found no cluster at {address!r} ({' '.join(str(error).split())[:200]})") from None


def _reach(address: str) -> None:
    """Raise InputError where nobody listens at HOST:PORT: Ray itself would try for minutes, then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--ray: found nobody at {address!r} ({error}), expected a cluster's HOST:PORT") from None


def _ray(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its maker
    if address == LOCAL:  # Ray listens on all interfaces: nobody else has the token
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a thread that calls it after the end starts another cluster
    try:
        return import_module("ray")
    except ModuleNotFoundError:
        raise EngineError("ray is not installed, which --ray needs: pip install 'agvas[ray]'") from None
