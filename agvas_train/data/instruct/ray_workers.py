"""Workers on several machines, through Ray: they annotate and give back what came of it; who asked them writes it.

Every machine has agvas and Ray, and the data set at the same place. How a cluster is joined is in ray_cluster.py.
"""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agvas_runtime import console
from agvas_runtime.errors import EngineError, InputError
from agvas_train.data.instruct.annotate import Annotator, open_annotator
from agvas_train.data.instruct.endpoint import EndpointConfig
from agvas_train.data.instruct.gallery import NormalImages
from agvas_train.data.instruct.pipeline import Outcome, annotated
from agvas_train.data.instruct.ray_cluster import joined
from agvas_train.data.instruct.tasks import Task

START_S = 120.0
"""In which every worker must be there."""
QUIET_S = 10.0
"""After which a worker that has not answered is asked for a sign of life."""
LOST_S = 120.0
"""In which the sign must come: from the worker, or from what Ray started in its place."""
SHOWN = 200
"""Characters of both ends of what Ray says of a failure."""
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
        self._job, self._host = job, socket.gethostname()
        self._normals = NormalImages(job.normals)
        self._annotator: Annotator | None = None
        self._lacks = ""
        try:
            self._annotator = open_annotator(job.config, job.root, job.rate, job.max_side)
        except InputError as error:
            self._lacks = str(error)

    def host(self) -> str:
        """The name of this worker's machine; a sign of life."""
        return self._host

    def missing(self) -> str:
        """What this worker's machine lacks now; "" where it lacks nothing."""
        try:
            self._job.root.stat()
        except OSError as error:
            return f"{self._job.root}: no data set on {self._host} ({error.strerror})"
        return f"{self._lacks} (on {self._host})" if self._lacks else ""

    def annotate(self, task: Task) -> Outcome | Exception:
        """What came of a task and what was noted meanwhile, or what stops the whole run."""
        try:
            lack = self.missing()
            if lack or self._annotator is None:
                return _incomplete(lack)
            with console.kept_notes() as notes:
                outcome = annotated(task, self._normals, self._annotator)
            return replace(outcome, notes=tuple(f"{self._host}: {note}" for note in notes))
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
        EngineError: a worker did not start.
        ModuleNotFoundError: Ray is not installed.
    """
    with joined(address, count or 1) as ray:
        count = count or sum(bool(node["Alive"]) for node in ray.nodes())
        kind = ray.remote(
            num_cpus=1,
            max_concurrency=job.threads + 1,  # one for signs of life
            max_restarts=AGAIN,
            max_task_retries=AGAIN,
            scheduling_strategy="SPREAD",
        )(Worker)
        job = replace(job, rate=job.rate and job.rate / count)
        workers = [kind.remote(job) for _ in range(count)]
        try:
            lacks = ray.get([worker.missing.remote() for worker in workers], timeout=START_S)
            hosts = ray.get([worker.host.remote() for worker in workers], timeout=START_S)
        except ray.exceptions.GetTimeoutError:
            raise EngineError(
                f"--ray: {count} workers were not there within {START_S:g} s; a CPU each is free?"
            ) from None
        except ray.exceptions.RayError as error:
            raise EngineError(f"--ray: a worker did not start: {_told(error)}") from None
        for lack in filter(None, lacks):
            raise _incomplete(lack)
        crew = Crew(ray, workers, hosts, job.threads)
        try:
            yield crew.annotate, count * job.threads
        finally:
            crew.over = True


class Crew:
    """The workers that are left; one that is lost for good takes no further task, and its own go to the others."""

    def __init__(self, ray: Any, workers: list[Any], hosts: list[str], threads: int) -> None:
        """`hosts`: the machine of each worker; `threads`: tasks at a time of one worker."""
        self.over = False
        """Set at the end, when workers that go are not lost."""
        self._ray, self._workers, self._hosts = ray, workers, hosts
        self._left, self._told = set(range(len(workers))), ""
        self._free: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for place in [*self._left] * threads:
            self._free.put(place)

    def annotate(self, task: Task) -> Outcome:
        """What came of a task; any number of threads may ask.

        Raises:
            InputError: the endpoint takes no request as it is configured, or a machine lacks the data set.
            EngineError: no worker is left.
        """
        while (place := self._free.get()) is not None:
            if place not in self._left:
                continue
            try:
                outcome = self._answer(place, task)
            except (self._ray.exceptions.RayActorError, NoSignOfLife) as error:
                self._lose(place, _told(error))
                continue
            except self._ray.exceptions.RayError as error:
                outcome = Outcome(task, None, f"Ray on {self._hosts[place]}: {_told(error)}", failed=True)
            self._free.put(place)
            if isinstance(outcome, Exception):
                raise outcome
            for note in outcome.notes:
                console.note(note)
            return outcome
        self._free.put(None)  # for the next thread that waits
        raise EngineError(f"--ray: all {len(self._workers)} workers are lost: {self._told}")

    def _answer(self, place: int, task: Task) -> Outcome | Exception:
        """What the worker answers, however long it takes as long as there are signs of life."""
        worker = self._workers[place]
        answer = worker.annotate.remote(task)
        while not self._ray.wait([answer], timeout=QUIET_S)[0]:
            if not self._ray.wait([answer, worker.host.remote()], timeout=LOST_S)[0]:
                raise NoSignOfLife(f"{self._hosts[place]}, for {LOST_S:g} s")
        outcome: Outcome | Exception = self._ray.get(answer)
        return outcome

    def _lose(self, place: int, told: str) -> None:
        """Never ask this worker again; wake those who wait for one where it was the last."""
        if self.over:
            return
        try:
            self._left.remove(place)
        except KeyError:  # another thread was first
            return
        self._told = told
        self._ray.kill(self._workers[place])
        console.note(f"--ray: {len(self._left)} of {len(self._workers)} workers are left: {told}")
        if not self._left:
            self._free.put(None)


class NoSignOfLife(Exception):
    """A worker is neither there nor started again."""


def _incomplete(lack: str) -> InputError:
    return InputError(f"--ray: {lack}; expected the data set at the same place on every machine")


def _told(error: Exception) -> str:
    """What Ray says of a failure, the machine included, in one line."""
    told = console.one_line(str(error))
    if len(told) > 2 * SHOWN:  # where it was, and at the end of a traceback what it was
        told = f"{told[:SHOWN]} ... {told[-SHOWN:]}"
    return f"{type(error).__name__}: {told}"
