"""The run: threads take tasks and have them annotated; the main thread alone writes what comes of each."""

from __future__ import annotations

import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from agvas_runtime import console
from agvas_runtime.datasets import load_mask
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import read_image
from agvas_train.data.instruct.annotate import Annotation, Annotator, Pictures
from agvas_train.data.instruct.endpoint import Rejected, Unavailable
from agvas_train.data.instruct.gallery import NormalImages
from agvas_train.data.instruct.ledger import Ledger, Line
from agvas_train.data.instruct.prompt import PROMPT_HASH
from agvas_train.data.instruct.tasks import Task, below

MOST_FAILURES = 10
"""In a row, with no answer between them: the endpoint is down, or takes nothing."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task: a line for a file, or a failure."""

    task: Task
    line: Line | None = None
    """The record, or what is set aside; None where another run shall try again."""
    reason: str = ""
    """Why there is no record."""
    annotation: Annotation | None = None
    """None where nobody answered."""
    failed: bool = False
    """Whether the endpoint gave no answer, not even to a first ask."""
    notes: tuple[str, ...] = ()
    """What a worker on another machine had to say meanwhile."""


def run(tasks: Sequence[Task], annotate: Callable[[Task], Outcome], ledger: Ledger, threads: int) -> Counter[str]:
    """Annotate the tasks and write what comes of them; how many records, what was set aside, what failed, and tokens.

    Threads call `annotate`; it may be `annotated` here, or on another machine. Only the main thread may call this:
    Ctrl-C raises KeyboardInterrupt once all answers so far are written.

    Raises:
        InputError: the endpoint takes no request as it is configured.
        EngineError: the endpoint gives no answers, or the disk takes nothing; what is written stays.
    """
    counts: Counter[str] = Counter(records=0, aside=0, failed=0, asks=0, tokens_in=0, tokens_out=0, uncounted=0)
    in_row: list[Outcome] = []
    for outcome in console.progress(_outcomes(tasks, annotate, threads), "Annotating", total=len(tasks)):
        if outcome.failed:
            in_row.append(outcome)
            if len(in_row) >= (1 if outcome.line is None and not counts["asks"] else MOST_FAILURES):
                raise EngineError(f"stopped after {len(in_row)} in a row without an answer: {outcome.reason}")
            continue
        if outcome.annotation:
            for name in ("asks", "tokens_in", "tokens_out", "uncounted"):
                counts[name] += getattr(outcome.annotation, name)
            _settle(in_row, ledger, counts)
        _settle([outcome], ledger, counts)
    if in_row and not counts["asks"] and not ledger.done:  # then nothing says that it is the images' fault
        raise EngineError(f"no image got an answer: {in_row[-1].reason}")
    _settle(in_row, ledger, counts)
    return counts


def _settle(outcomes: list[Outcome], ledger: Ledger, counts: Counter[str]) -> None:
    """Write what belongs into the files, and empty the list."""
    for outcome in outcomes:
        name = outcome.task.item.name
        if outcome.line is None:
            counts["failed"] += 1
            console.note(f"{name}: {outcome.reason}")
        elif outcome.reason:
            counts["aside"] += 1
            ledger.set_aside(outcome.line)
        else:
            counts["records"] += 1
            ledger.record(outcome.line)
    outcomes.clear()


def prepare(task: Task, normals: NormalImages) -> tuple[Pictures, Line]:
    """The pictures of a task, and which normal image was chosen, with the figures; raises InputError."""
    item = task.item
    image = read_image(item.image)
    mask = load_mask(item, image.shape[:2])
    if item.anomalous and not mask.any():
        raise InputError(f"{item.mask}: the mask of a defective image is empty")
    path, likeness = normals.most_similar(item.category, image, item.image)
    chosen = {
        "normal_image": below(item, path),
        "ssim": round(likeness.ssim, 4),
        "distance": round(likeness.distance, 4),
    }
    return Pictures(image, mask, read_image(path)), chosen


def annotated(task: Task, normals: NormalImages, annotator: Annotator) -> Outcome:
    """What comes of a task. Raises InputError where the endpoint takes no request as it is configured."""
    head: Line = {
        "dataset": task.dataset,
        "image": task.item.name,
        "mask": task.mask_name,
        "category": task.item.category,
    }
    try:
        pictures, chosen = prepare(task, normals)
    except InputError as error:
        return Outcome(task, {**head, "reason": str(error)}, str(error))
    origin = {"model": annotator.model, "prompt": PROMPT_HASH, **chosen}
    try:
        result = annotator.annotate(task, pictures)
    except Unavailable as error:
        return Outcome(task, None, str(error), error.paid, failed=error.paid is None)
    except Rejected as error:
        line = {**head, "reason": str(error), "provenance": origin}
        if error.paid is not None:
            line |= {"answers": error.paid.refused, "provenance": origin | _cost(error.paid)}
        return Outcome(task, line, str(error), error.paid, failed=error.paid is None)
    origin |= _cost(result)
    if result.fields is None:
        reason = "; ".join(result.faults)
        line = {**head, "reason": reason, "answers": result.refused, "provenance": origin}
        return Outcome(task, line, reason, result)
    return Outcome(task, {**head, **result.fields.model_dump(), "provenance": origin}, annotation=result)


def _cost(result: Annotation) -> Line:
    return {"asks": result.asks, "tokens_in": result.tokens_in, "tokens_out": result.tokens_out}


def _outcomes(tasks: Sequence[Task], annotate: Callable[[Task], Outcome], threads: int) -> Iterator[Outcome]:
    """What comes of each task, as it comes. Whoever stops listening leaves the threads to end with the process.

    Ctrl-C waits for what has been answered to be taken, and for nothing else.
    """
    todo: queue.SimpleQueue[Task] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    for task in tasks:
        todo.put(task)
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: done.put(KeyboardInterrupt()))  # its turn comes behind all done

    def work() -> None:
        try:
            while not stop.is_set():
                done.put(annotate(todo.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:
            done.put(error)

    for _ in range(min(threads, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in tasks:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        stop.set()
        signal.signal(signal.SIGINT, before)
