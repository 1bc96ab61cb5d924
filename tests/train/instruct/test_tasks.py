"""What of a data set is asked about."""

import json
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.instruct.tasks import make_plan
from tests.train.instruct.small_sets import make_small_set, noise, write_image


def names(plan) -> list[str]:
    return [task.item.name for task in plan.tasks]


def test_every_image_is_a_task_with_its_paths_below_the_set(tmp_path: Path):
    plan = make_plan(make_small_set(tmp_path / "set", defects=1, normals=2))
    assert [task.key for task in plan.tasks] == [
        ("set", "part/test/good/000.png"),
        ("set", "part/test/good/001.png"),
        ("set", "part/test/spot/000.png"),
    ]
    assert [task.mask_name for task in plan.tasks] == ["", "", "part/ground_truth/spot/000_mask.png"]


def test_a_category_alone_is_a_set(tmp_path: Path):
    root = make_small_set(tmp_path / "set", defects=1)
    [task] = make_plan(root / "part", defects_only=True).tasks
    assert (task.key, task.mask_name) == (("part", "test/spot/000.png"), "ground_truth/spot/000_mask.png")


def test_a_list_gives_the_same_tasks_as_its_folders(tmp_path: Path):
    root = make_small_set(tmp_path / "set")
    folders = make_plan(root)
    listed = [
        {"img_path": task.item.name, "mask_path": task.mask_name, "anomaly": int(task.item.anomalous)}
        for task in [*folders.tasks, folders.tasks[0]]  # one twice
    ]
    (root / "meta.json").write_text(json.dumps({"train": {}, "test": {"part": listed}}))
    assert [(task.key, task.mask_name) for task in make_plan(root).tasks] == [
        (task.key, task.mask_name) for task in folders.tasks
    ]


def test_normal_images_for_training_are_shown_and_not_asked_about(tmp_path: Path):
    root = make_small_set(tmp_path / "set", defects=1, normals=0)
    write_image(root / "part/train/good/7.png", noise(7))
    write_image(root / "part/train/good/._7.png", noise(8))
    plan = make_plan(root)
    assert names(plan) == ["part/test/spot/000.png"]
    assert plan.normals == {"part": [root / "part/train/good/7.png"]}


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_shards_are_the_set_in_parts(tmp_path: Path, parts: int):
    root = make_small_set(tmp_path / "set", defects=20, normals=10)
    shards = [names(make_plan(root, (part, parts))) for part in range(1, parts + 1)]
    assert sorted(name for shard in shards for name in shard) == names(make_plan(root))
    assert all(shards)


def test_what_cannot_be_asked_about_is_named(tmp_path: Path):
    root = make_small_set(tmp_path / "set", defects=1, normals=2)
    write_image(root / "lone/test/good/0.png", noise(8))
    write_image(root / "maskless/test/bad/0.png", noise(9))
    plan = make_plan(root)
    assert len(plan.tasks) == 3
    assert plan.unusable == {
        "lone/test/good/0.png": "category 'lone' has no other normal image to show beside it",
        "maskless/test/bad/0.png": "it has no mask",
    }


def test_a_set_of_which_nothing_can_be_asked_is_refused(tmp_path: Path):
    write_image(tmp_path / "plain/0.png", noise(0))
    with pytest.raises(InputError, match=r"0\.png: it is not known whether"):
        make_plan(tmp_path / "plain")
    with pytest.raises(InputError, match="no normal image to show"):
        make_plan(make_small_set(tmp_path / "defects", normals=0))
    with pytest.raises(InputError, match="no defective image among 2"):
        make_plan(make_small_set(tmp_path / "normal", defects=0), defects_only=True)
