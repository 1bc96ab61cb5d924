"""Processes that share the stream, and one that goes on with it, see what one process sees."""

import gc
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import IterableDataset

from agvas_train.data.loading import start_loading
from tests.train.mixture.mixed import BATCH, digest, mixture, stream, write_digests
from tests.train.processes import CONTEXT
from tests.train.sets.miniatures import write_all

STEPS = 4


def elsewhere(out: Path, *arguments: object) -> list[str]:
    process = CONTEXT.Process(target=write_digests, args=(out, *arguments))
    process.start()
    process.join()
    assert process.exitcode == 0
    return json.loads(out.read_text())


def test_two_processes_and_a_resume_see_the_stream_of_one(root: Path, small_folder: Path, tmp_path: Path) -> None:
    alone = [digest(batch) for batch in stream(root, small_folder, 0, STEPS)]
    assert len(set(alone)) == len(alone) == 2 * STEPS
    for rank in (0, 1):
        half = elsewhere(tmp_path / f"{rank}.json", 0, root, small_folder, 0, STEPS, rank, 2)
        assert half == alone[rank::2]
    resumed = elsewhere(tmp_path / "resumed.json", 2, root, small_folder, 3, STEPS)
    assert resumed == alone[6:]


def test_a_sample_depends_on_its_index_alone(root: Path) -> None:
    forward, backward = mixture(root), mixture(root)
    there = [forward.draw(index) for index in range(40)]
    back = [backward.draw(index) for index in reversed(range(40))][::-1]
    assert [(d.source, d.turn.instruction, d.turn.answer) for d in there] == [
        (d.source, d.turn.instruction, d.turn.answer) for d in back
    ]
    assert all((one.image == other.image).all() for one, other in zip(there, back, strict=True))


def test_every_sample_of_a_step_has_an_index_of_its_own(root: Path, small_folder: Path) -> None:
    asked: Counter[int] = Counter()
    for rank in (0, 1):
        half = stream(root, small_folder, 0, STEPS, rank, 2)
        drawn = half.turns.turn
        half.turns.turn = lambda index, drawn=drawn: asked.update([index]) or drawn(index)  # type: ignore[method-assign]
        list(half)
    assert asked == Counter(range(STEPS * BATCH))


@pytest.fixture
def another_default() -> Iterator[None]:
    """Python 3.14 starts processes by forkserver unless told otherwise."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


forked = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere loading processes read the lists themselves")


@forked
@pytest.mark.usefixtures("another_default")
def test_loading_processes_share_the_lists_that_were_read(small_folder: Path, tmp_path: Path) -> None:
    root = write_all(tmp_path)
    shared = stream(root, small_folder, 0, STEPS)
    alone = [digest(batch) for batch in shared]
    for name in ("meta_*.json", "refs(*.p", "config_v2.0.json"):
        for file in root.rglob(name):
            file.unlink()  # whoever has no list by now gets none
    assert [digest(batch) for batch in start_loading(shared, workers=2)] == alone


class Frozen(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield gc.get_freeze_count()


@forked
def test_loading_processes_do_not_collect_what_they_share() -> None:
    assert next(start_loading(Frozen(), workers=1)) > 1000
    assert gc.get_freeze_count() == 0
