"""`agvas-data check`: what is there, missing and broken, and the exit code that says so."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from agvas_runtime import console
from agvas_train.data.cli import app
from agvas_train.data.cli_check import spread
from agvas_train.data.sets.registry import REGISTRY
from tests.train.sets.anomaly_miniatures import merged_set
from tests.train.sets.files import array, bands
from tests.train.sets.miniatures import ade20k, coco_stuff, paco

runner = CliRunner()


def checked(root, *options):
    """Exit code, whether all is sound, and what is said of each set."""
    result = runner.invoke(app, ["check", str(root), "--json", *options])
    report = json.loads(result.stdout)
    return result.exit_code, report["sound"], {each["name"]: each for each in report["sets"]}


def test_all_sets_there_and_sound(root):
    code, sound, sets = checked(root)
    assert (code, sound) == (0, True)
    assert list(sets) == list(REGISTRY)
    assert {each["state"] for each in sets.values()} == {"there"}
    assert {each["broken"] for each in sets.values()} == {0}
    counts = {"samples": 4, "images": 4, "masks": 2, "normal": 2, "anomalous": 2, "classes": 1}
    assert sets["real-iad"]["counts"] == counts
    assert sets["real-iad"]["looked_at"] == 4
    assert sets["ade20k"]["counts"]["normal"] is None
    assert sets["mapillary"]["in_mixture"] is False


def test_what_is_missing_is_named_with_its_page_and_is_no_fault(tmp_path):
    ade20k(tmp_path)
    (tmp_path / "cocostuff/train2017").mkdir(parents=True)
    code, sound, sets = checked(tmp_path)
    assert (code, sound) == (0, True)
    assert sets["ade20k"]["state"] == "there"
    assert sets["coco-stuff"]["state"] == "incomplete"
    assert sets["coco-stuff"]["missing"] == ["coco/train2017"]
    assert sets["refcocog"]["state"] == "absent"
    assert sets["refcocog"]["missing"][0] == "refer_seg/refcocog/refs(umd).p"
    assert sets["gc10"]["page"] == "GC10-DET"


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda root: (root / "images/training/ADE_train_2.jpg").write_bytes(b"\xff\xd8\xff"), "ADE_train_2.jpg"),
        (lambda root: array(root / "annotations/training/ADE_train_2.png", bands(rest=200)), "found the id 200"),
        (
            lambda root: array(root / "annotations/training/ADE_train_2.png", np.ones((3, 3), np.uint8)),
            "expected 3 x 3",
        ),
        (lambda root: (root / "annotations/training/ADE_train_2.png").unlink(), "ADE_train_2.png: No such file"),
    ],
    ids=["unreadable image", "label out of range", "mask of another size", "no labels"],
)
def test_what_is_broken_is_named_and_exits_with_1(tmp_path, damage, fault):
    ade20k(tmp_path)
    damage(tmp_path / "ade20k")
    code, sound, sets = checked(tmp_path)
    assert (code, sound) == (1, False)
    assert sets["ade20k"]["broken"] == 1
    assert fault in sets["ade20k"]["faults"][0]
    result = runner.invoke(app, ["check", str(tmp_path)])
    assert result.exit_code == 1
    assert fault in result.stdout


def test_what_training_would_not_take_is_a_fault(tmp_path):
    merged_set(tmp_path, "GC", "gc")
    array(tmp_path / "anomaly_seg/GC/gc/ground_truth/anomaly/001.png", np.zeros((8, 12), np.uint8))
    code, _, sets = checked(tmp_path)
    assert code == 1
    assert sets["gc10"]["broken"] == 1
    assert "found an empty mask, expected the defect's pixels" in sets["gc10"]["faults"][0]


def test_an_outline_that_cannot_be_painted_is_a_fault(tmp_path):
    paco(tmp_path)
    path = tmp_path / "vlpart/paco/annotations/paco_lvis_v1_train.json"
    path.write_text(path.read_text().replace("[[0, 0, 3, 0, 3, 2, 0, 2]]", "[[0, 0, 3]]"))
    code, _, sets = checked(tmp_path)
    assert code == 1
    assert "image 25: not as its format says (polygon of 3 coordinates" in sets["paco-lvis"]["faults"][0]


def test_a_list_that_cannot_be_read_is_a_fault(tmp_path):
    merged_set(tmp_path, "GC", "gc")
    (tmp_path / "anomaly_seg/meta_GC.json").write_text("{")
    code, _, sets = checked(tmp_path)
    assert code == 1
    assert sets["gc10"]["counts"] is None
    assert "meta_GC.json: not a data set's list" in sets["gc10"]["faults"][0]
    (tmp_path / "cocostuff/train2017").mkdir(parents=True)
    (tmp_path / "coco/train2017").mkdir(parents=True)
    assert "found no samples, expected some" in checked(tmp_path)[2]["coco-stuff"]["faults"][0]


def test_only_the_first_faults_are_named_and_the_rest_counted(tmp_path):
    merged_set(tmp_path, "GC", "gc", normal=5)
    for path in (tmp_path / "anomaly_seg/GC/gc/test/good").iterdir():
        path.write_bytes(b"x")
    _, _, sets = checked(tmp_path)
    assert sets["gc10"]["broken"] == 5
    assert len(sets["gc10"]["faults"]) == 3
    assert "2 more like these" in runner.invoke(app, ["check", str(tmp_path)]).stdout


def test_a_sample_of_each_set_or_all(tmp_path):
    coco_stuff(tmp_path)
    merged_set(tmp_path, "GC", "gc", normal=40)
    assert checked(tmp_path)[2]["gc10"]["looked_at"] == 20
    assert checked(tmp_path, "--sample", "3")[2]["gc10"]["looked_at"] == 3
    assert checked(tmp_path, "--all")[2]["gc10"]["looked_at"] == 42


def test_a_sample_is_evenly_spread():
    assert spread(101, 5) == [0, 25, 50, 75, 100]
    assert spread(5, 1) == [0]
    assert spread(3, 20) == [0, 1, 2]
    assert spread(4, None) == [0, 1, 2, 3]


def test_the_table(root, tmp_path):
    text = runner.invoke(app, ["check", str(root)]).stdout
    assert all(name in text for name in REGISTRY)
    assert "Not there" not in text
    text = runner.invoke(app, ["check", str(tmp_path)]).stdout
    assert "Not there" in text
    assert "MIT Scene Parsing Benchmark" in text


def test_a_root_that_is_no_folder_costs_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        console.run(app, ["check", str(tmp_path / "nowhere")])
    assert left.value.code == 2
    assert capsys.readouterr().err.endswith("nowhere: found no folder, expected the root of the data sets\n")
