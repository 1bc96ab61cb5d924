"""A data set from its first image to its last: in this process or in several, from the start or where it stopped."""

import hashlib
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from agvas_runtime import __version__, console
from agvas_runtime.datasets import Dataset, Item
from agvas_runtime.errors import EngineError
from agvas_runtime.evaluate.pictures import folder_names, picture_name, spread, write_picture, write_sheets
from agvas_runtime.evaluate.rows import Evaluation, score_category
from agvas_runtime.evaluate.score import Scored, score_image
from agvas_runtime.evaluate.sources import Asks, Source
from agvas_runtime.evaluate.unfinished import (
    Finished,
    load_category,
    load_image,
    open_unfinished,
    save_category,
    save_image,
)
from agvas_runtime.frames import read_image

AHEAD = 2
"""Images for each process that are under way at once: one is worked on, one waits."""


class Task(NamedTuple):
    """One image to score."""

    number: int
    """Its place in its category."""
    item: Item
    pictures: Path | None
    """Folder of its category's pictures."""
    place: Path | None
    """Where it is kept until its category is done."""


@dataclass
class Worker:
    """Scores images one after the other; opens its source when the first one needs it."""

    source: Source
    size: int | None
    _opened: tuple[Asks, str] | None = None

    def score(self, task: Task) -> tuple[Scored, str]:
        """An image's figures, kept or new, and what has to be said beside them. Raises InputError, EngineError."""
        if task.place is not None and (kept := load_image(task.place)):
            return kept
        if self._opened is None:
            self._opened = self.source.open()
        ask, note = self._opened
        scored, compared = score_image(task.item, ask(task.item), self.size)
        if task.pictures is not None:
            path = task.pictures / picture_name(task.number, scored.record)
            write_picture(path, read_image(task.item.image), scored.record, compared)
        if task.place is not None:
            save_image(task.place, scored, note)
        return scored, note


class Done(NamedTuple):
    """An evaluation, what has to be said beside its figures, and what these depend on."""

    evaluation: Evaluation
    weights_note: str
    settings: dict[str, Any]


def evaluate_dataset(
    source: Source,
    dataset: Dataset,
    limit: int | None = None,
    out: Path | None = None,
    size: int | None = None,
    jobs: int = 1,
    resume: bool = False,
) -> Done:
    """Score every category.

    Args:
        source: what answers.
        dataset: its images.
        limit: at most so many images of a category, evenly spread.
        out: folder for pictures, and for what is kept of an unfinished evaluation; the caller writes the results.
        size: score on size x size pixels instead of each image's own.
        jobs: processes that run and score images.
        resume: go on with what `out` holds of an interrupted evaluation with the same settings.

    Raises:
        InputError: an unusable image, mask or map; `out` holds something else, or another process writes there.
        EngineError: the engine failed, a process died, a file cannot be written.
    """
    chosen = choose(dataset, limit)
    settings, folders = settings_of(source, chosen, limit, size), folder_names(chosen)
    opened = open_unfinished(out, settings, resume)
    evaluation, note = Evaluation(), ""
    with opened as folder, _workers(Worker(source, size), jobs) as workers:
        for number, (category, items) in enumerate(chosen.items()):
            done = load_category(folder, number) if folder else None
            if done is None:
                pictures = out / "pictures" / folders[category] if out else None
                kept = folder / f"{number:04d}" if folder else None
                tasks = [
                    Task(index, item, pictures, kept / f"{index:06d}" if kept else None)
                    for index, item in enumerate(items)
                ]
                done = _category(category, workers.score(tasks), len(tasks))
                if pictures:
                    write_sheets(pictures, done.records)
                if folder:
                    save_category(folder, number, done)
            evaluation.rows.append(done.row)
            evaluation.records += done.records
            evaluation.instruction, note = done.instruction or evaluation.instruction, done.note or note
    return Done(evaluation, note, settings)


def choose(dataset: Dataset, limit: int | None) -> dict[str, list[Item]]:
    """By category the images that are scored: all, or at most so many, evenly spread."""
    return {
        name: [items[index] for index in spread(len(items), limit or len(items))]
        for name, items in dataset.categories.items()
    }


def settings_of(source: Source, chosen: dict[str, list[Item]], limit: int | None, size: int | None) -> dict[str, Any]:
    """All that the figures depend on; of the images their names and sizes in bytes."""
    listed, items = hashlib.sha256(), [item for each in chosen.values() for item in each]
    for item in items:
        sizes = [path.stat().st_size for path in (item.image, item.mask) if path]
        listed.update(f"{item.category} {item.name} {item.anomalous} {sizes}\n".encode("utf-8", "surrogateescape"))
    asked = {**source.settings(items), "limit": limit, "size": size}
    return {**asked, "agvas": __version__, "images_sha256": listed.hexdigest()}


def _category(category: str, scored: Iterator[tuple[Scored, str]], total: int) -> Finished:
    instruction = note = ""

    def each() -> Iterator[Scored]:
        nonlocal instruction, note
        for one, said in console.progress(scored, category, total):
            instruction, note = one.instruction, said
            yield one

    row, records = score_category(category, each())
    return Finished(row, records, instruction, note)


@dataclass
class _Workers:
    """Workers in processes, or the one in this process."""

    worker: Worker
    pool: ProcessPoolExecutor | None
    jobs: int

    def score(self, tasks: Iterable[Task]) -> Iterator[tuple[Scored, str]]:
        """The tasks' results in their order; few are under way at once, so that none pile up."""
        if self.pool is None:
            yield from map(self.worker.score, tasks)
            return
        under_way: deque[Future[tuple[Scored, str]]] = deque()
        try:
            for task in tasks:
                under_way.append(self.pool.submit(_score, task))
                if len(under_way) >= AHEAD * self.jobs:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        except BrokenProcessPool:
            raise EngineError("a process of the evaluation died (out of memory?): use fewer --jobs") from None


@contextmanager
def _workers(worker: Worker, jobs: int) -> Iterator[_Workers]:
    if jobs == 1:
        yield _Workers(worker, None, 1)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (worker,))
    try:
        yield _Workers(worker, pool, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


_here: list[Worker] = []
"""The worker of a process of the pool."""


def _begin(worker: Worker) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is told too, and ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _here.append(worker)


def _end_with_parent() -> None:
    """A first process that is killed can tell nobody: without it the others would wait for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(task: Task) -> tuple[Scored, str]:
    return _here[0].score(task)
