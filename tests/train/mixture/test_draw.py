"""Which sample stands at an index: Table A.1's shares, sets alike, normal and anomalous alike; what cannot be read."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.cli_mixture import rows
from agvas_train.data.conversation import GROUPS, Task
from agvas_train.data.sets.registry import REGISTRY, Group
from tests.train.mixture.mixed import mixture
from tests.train.sets.miniatures import write_all

DRAWS = 40_000
PAPER = {Group.GENERAL: 0.40, Group.INSTRUCT: 0.25, Group.SEG: 0.25, Group.VQA: 0.10}


def test_groups_and_sets_have_the_shares_of_table_a1(root: Path) -> None:
    listed = rows(mixture(root), DRAWS)
    assert {row["set"] for row in listed} == {entry.name for entry in REGISTRY.values() if entry.in_mixture}
    for group, share in PAPER.items():
        mine = [row for row in listed if row["group"] == group.value]
        assert sum(row["drawn"] for row in mine) == pytest.approx(share, abs=0.01)
        for row in mine:
            assert row["share"] == pytest.approx(share / len(mine))
            assert row["drawn"] == pytest.approx(row["share"], rel=0.15)


def test_normal_and_anomalous_are_drawn_alike_where_a_set_has_both(root: Path) -> None:
    normal = {row["set"]: row["normal"] for row in rows(mixture(root), DRAWS)}
    for name, share in normal.items():
        if REGISTRY[name].group in (Group.GENERAL, Group.VQA):
            assert share is None
        elif name == "goodsad-instruct":  # one record, of a defect
            assert share == 0
        elif name == "miad":  # no pixel labels: only its normal images can be used
            assert share == 1
        else:
            assert share == pytest.approx(0.5, abs=0.04)


def test_the_samples_of_a_set_are_drawn_alike_and_none_is_left_out(root: Path) -> None:
    picks = list(map(mixture(root).pick, range(5000)))
    places = Counter((pick.part.set, pick.part.kind, pick.place) for pick in picks)
    for part in {pick.part.set + pick.part.kind: pick.part for pick in picks}.values():
        counts = [places[part.set, part.kind, place] for place in range(len(part.samples))]
        assert min(counts) > sum(counts) / len(counts) / 2


def test_a_drawn_sample_is_of_its_set_its_kind_and_its_task(root: Path) -> None:
    mixed = mixture(root)
    for index in range(300):
        drawn = mixed.draw(index)
        pick, turn = drawn.pick, drawn.turn
        assert turn.task is pick.task
        assert REGISTRY[drawn.source.set].group is GROUPS[turn.task]
        assert drawn.source.set == pick.part.set
        assert turn.anchors == (turn.mask is not None) == (pick.part.kind == "anomalous" or turn.task is Task.GENERAL)
        assert turn.mask is None or turn.mask.shape == drawn.image.shape[:2]


def test_drawing_imports_no_torch() -> None:
    code = "import sys, agvas_train.data.cli; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """One of ADE20K's two images is cut short, one of the GC10's two masks gone."""
    root = write_all(tmp_path)
    image = root / "ade20k/images/training/ADE_train_1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    (root / "anomaly_seg/GC/gc/ground_truth/anomaly/000.png").unlink()
    return root


def test_unreadable_samples_are_passed_over_alike_wherever_a_process_begins(damaged: Path) -> None:
    told: list[str] = []
    mixed, late = mixture(damaged, 1, told.append), mixture(damaged, 1)
    sources = [mixed.draw(index).source for index in range(400)]
    assert [late.draw(index).source for index in reversed(range(400))][::-1] == sources
    met = {(source.set, source.index) for source in sources}
    assert ("ade20k", 1) in met
    assert ("gc10", 3) in met
    assert not met & {("ade20k", 0), ("gc10", 2)}
    assert sorted(line.split(": ")[0] for line in told) == ["ade20k 0", "gc10 2, anomalous"]  # each once


def test_too_many_unreadable_samples_are_an_error(damaged: Path) -> None:
    mixed = mixture(damaged, 0)
    with pytest.raises(InputError, match=r"found 1 unreadable of \d+ samples met, expected 0 at most; the last: .*"):
        [mixed.draw(index) for index in range(400)]


def test_a_set_without_anything_for_a_task_is_not_called_unreadable(tmp_path: Path) -> None:
    root = write_all(tmp_path)
    talk = root / "vqa_dataset/llava_dataset/llava_instruct_150k.json"
    talk.write_text(talk.read_text().replace("What is it?", "What?" * 101).replace("Hm?", "Hm?" * 167))
    mixed = mixture(root, 1)
    talk_at = next(index for index in range(200) if mixed.pick(index).part.set == "llava-150k")
    with pytest.raises(
        InputError, match=r"^llava-150k: found nothing for the task conversation in 2 sound samples .0 mo"
    ):
        mixed.draw(talk_at)
