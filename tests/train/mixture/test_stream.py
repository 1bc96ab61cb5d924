"""Processes that share the stream, and one that goes on with it, see what one process sees."""

import json
from collections import Counter
from pathlib import Path

from tests.train.mixture.mixed import BATCH, digest, mixture, stream, write_digests
from tests.train.processes import CONTEXT

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
