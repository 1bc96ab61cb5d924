"""agvas-eval: the scoring rules on an engine whose every number is known, and the command on the embedded bundle."""

import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import console
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.datasets import load_dataset
from agvas_runtime.errors import EngineError
from agvas_runtime.evaluate.cli import app, as_report, evaluate_dataset, main
from agvas_runtime.evaluate.pictures import file_name, spread
from agvas_runtime.evaluate.score import Evaluation, Row
from agvas_runtime.frames import read_image
from agvas_runtime.metrics import average_precision, f1_max
from agvas_runtime.modes import Mode, Request
from agvas_runtime.result import AnswerKind, Result, Scores, Verdict


class RedEngine:
    """An engine whose anomaly probability is the red channel; the blue one says how it answers."""

    def segment(self, image, instruction=None, recipe=None, **asked):
        self.asked = instruction, asked
        frame = read_image(image)
        blue = frame[0, 0, 2]
        if blue == 60:
            raise EngineError("graph llm: out of memory")
        kind = {0: AnswerKind.SEGMENTED, 10: AnswerKind.REJECTED, 20: AnswerKind.OTHER}[int(blue)]
        red = frame[:, :, 0].astype(np.float32) / 255
        probability = np.zeros_like(red) if kind is AnswerKind.REJECTED else red
        verdict = Verdict.NO_ANSWER if kind is AnswerKind.OTHER else Verdict.PASS
        scores = Scores(0.5, 0.5, 0.0, 0.5, 1.0)
        text = instruction or f"{asked['mode'].value} {asked['class_name']} {asked['normal_look']}"
        return Result(verdict, "odd text", "", kind, probability, probability > 0.5, (), scores, {}, text)


def save(root, name, red, blue=0, truth=None):
    """One image of a category "part"; `red` uint8 [H,W] is its answer, `truth` its defect."""
    kind = "good" if truth is None else "crack"
    image = np.zeros((*red.shape, 3), np.uint8)
    image[:, :, 0], image[:, :, 2] = red, blue
    path = root / "part" / "test" / kind / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    if truth is not None:
        mask = root / "part" / "ground_truth" / kind / f"{name}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth.astype(np.uint8) * 255).save(mask)


@pytest.fixture
def data(tmp_path):
    """Images of several sizes: two defects (one half found, one rejected), three normal (one alarm, one no answer)."""
    root = tmp_path / "data"
    truth = np.zeros((10, 20), bool)
    truth[2:6, 5:15] = True
    found = np.zeros((10, 20), np.uint8)
    found[2:4, 5:15] = 200
    found[8, 0] = 100
    save(root, "half", found, truth=truth)
    save(root, "missed", np.full((8, 8), 250, np.uint8), blue=10, truth=np.eye(8, dtype=bool))
    save(root, "quiet", np.full((30, 7), 40, np.uint8))
    save(root, "alarm", np.full((5, 5), 130, np.uint8))
    save(root, "odd", np.full((6, 6), 255, np.uint8), blue=20)
    return root


def scored(root, **options):
    return evaluate_dataset(RedEngine(), load_dataset(root), **options)


def test_figures_are_those_of_all_pixels_and_of_all_images(data):
    (row,) = scored(data).rows
    found = np.zeros((10, 20), np.float32)
    found[2:4, 5:15], found[8, 0] = 200 / 255, 100 / 255
    half = np.zeros((10, 20), bool)
    half[2:6, 5:15] = True
    maps = [found, np.zeros((8, 8)), np.full((30, 7), 40 / 255), np.full((5, 5), 130 / 255), np.zeros((6, 6))]
    truths = [half, np.eye(8, dtype=bool), *(np.zeros(shape, bool) for shape in ((30, 7), (5, 5), (6, 6)))]
    scores = np.concatenate([each.ravel() for each in maps]).astype(np.float32)
    truth = np.concatenate([each.ravel() for each in truths])
    assert row.ap == pytest.approx(100 * average_precision(scores, truth))
    assert row.f1_max == pytest.approx(100 * f1_max(scores, truth))
    assert row.iou_ano == pytest.approx(25)  # half of one defect, nothing of the other
    assert row.iou_nor == pytest.approx(200 / 3)


def test_rejections_and_missing_answers_are_counted_apart(data):
    evaluation = scored(data)
    (row,) = evaluation.rows
    counts = row.images, row.normal, row.anomalous, row.rejected_normals, row.rejected_defectives, row.no_answer
    assert counts == (5, 3, 2, 0, 1, 1)
    assert evaluation.no_answers == [(str(data / "part/test/good/odd.png"), "odd text")]


def test_an_engine_that_fails_stops_the_evaluation(data):
    save(data, "down", np.zeros((6, 6), np.uint8), blue=60)
    with pytest.raises(EngineError, match="out of memory"):
        scored(data)


def test_a_set_without_normal_images_has_no_iou_nor(data):
    for image in (data / "part" / "test" / "good").iterdir():
        image.unlink()
    evaluation = scored(data)
    assert math.isnan(evaluation.rows[0].iou_nor)
    report = console.finite(as_report(evaluation, "data", "ort", None, None))
    assert report["mean"]["iou_nor"] is None
    assert report["categories"][0]["iou_ano"] == pytest.approx(25)


def test_the_mean_is_over_the_categories_where_a_figure_is_defined():
    rows = [Row("a", images=3, ap=10, iou_nor=50), Row("b", images=5, ap=30)]
    mean = Evaluation(rows).mean()
    assert (mean.ap, mean.iou_nor, mean.images) == (20, 50, 8)
    assert math.isnan(mean.iou_ano)


def test_every_image_is_asked_what_the_request_says_and_the_report_records_it(data):
    request = Request(Mode.DESCRIBE_PLUS, class_name="dents", normal_look="It is flat.")
    engine = RedEngine()
    evaluation = evaluate_dataset(engine, load_dataset(data), request=request)
    assert engine.asked == (None, {"mode": Mode.DESCRIBE_PLUS, "class_name": "dents", "normal_look": "It is flat."})
    report = as_report(evaluation, "data", "reference", None, None, request.mode)
    assert report["mode"] == "describe-plus"
    assert report["instruction"] == "describe-plus dents It is flat."


def test_the_limit_is_spread_over_the_category(data):
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 12) == [0, 1, 2]
    row = scored(data, limit=2).rows[0]
    assert (row.images, row.normal, row.anomalous) == (2, 1, 1)


def test_pictures_stand_beside_a_contact_sheet(data, tmp_path):
    out = tmp_path / "out"
    scored(data, out=out)
    names = sorted(path.name for path in (out / "pictures" / "part").iterdir())
    assert names == ["0000_crack_half.jpg", "0001_crack_missed.jpg", "0002_good_alarm.jpg", "0003_good_odd.jpg",
                     "0004_good_quiet.jpg"]  # fmt: skip
    strip = read_image(out / "pictures" / "part" / names[0])
    assert strip.shape[1] > 3 * 20
    assert read_image(out / "pictures" / "part_sheet.jpg").shape[0] > strip.shape[0]


def test_file_names_cannot_leave_their_folder():
    assert file_name("../../etc/passwd") == "_.._etc_passwd"
    assert file_name("..") == "_"


def command(capfd, *args):
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(arg) for arg in args])
    out, err = capfd.readouterr()
    return left.value.code, out, err


@pytest.fixture
def defects(tmp_path):
    """Two categories of one normal and one defective image each, of a size the embedded model knows."""
    random, root = np.random.default_rng(0), tmp_path / "defects"
    for category in ("disc", "bar"):
        for kind in ("good", "spot"):
            image = random.normal(140, 8, (96, 128, 3)).clip(0, 255).astype(np.uint8)
            if kind == "spot":
                image[40:60, 50:70] = 15
                mask = root / category / "ground_truth" / kind / "0_mask.png"
                mask.parent.mkdir(parents=True)
                Image.fromarray(((image == 15).all(axis=2) * 255).astype(np.uint8)).save(mask)
            path = root / category / "test" / kind / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(image).save(path)
    return root


def test_json_is_all_that_stands_on_stdout(capfd, defects, tmp_path):
    code, out, err = command(capfd, defects, "--json", "--out", tmp_path / "out", "--threads", 1)
    assert code == 0
    report = json.loads(out)
    assert [row["category"] for row in report["categories"]] == ["bar", "disc"]
    assert report["mean"]["images"] == 4
    assert all(0 <= report["mean"][name] <= 100 for name in ("ap", "f1_max", "iou_ano", "iou_nor"))
    assert report == json.loads((tmp_path / "out" / "results.json").read_text())
    assert "results.json" in err
    assert (tmp_path / "out" / "pictures" / "disc_sheet.jpg").is_file()


def test_a_class_name_is_put_into_the_default_instruction(capfd, defects):
    code, out, _ = command(capfd, defects, "--class-name", "spots", "--limit", 1, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["mode"], report["instruction"]) == ("direct", "Please segment the spots in this image.")


def test_the_table_names_every_category_and_the_mean(capfd, defects):
    code, out, _ = command(capfd, defects, "--bundle", default_bundle_path(), "--limit", 1)
    assert code == 0
    assert [word for word in ("bar", "disc", "mean", "IoU_nor", "n/a") if word not in out] == []


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["nowhere"], "error: nowhere: no such data set"),
        (["DATA", "--bundle", "nowhere"], "error: nowhere: no such bundle folder"),
        (["DATA", "--engine", "otr"], "error: unknown engine 'otr': did you mean 'ort'?"),
        (["DATA", "--checkpoint", "x"], "error: --checkpoint needs --engine reference"),
        (["DATA", "--engine", "reference", "--bundle", "x"], "error: --bundle needs --engine ort"),
        (["DATA", "--checkpoint", "x", "--bundle", "y"], "error: can't use both --bundle and --checkpoint"),
        (["DATA", "--engine", "reference", "--mode", "describe-plus"], "error: mode describe-plus needs normal_look"),
        (["DATA", "--instruction", "a", "--class-name", "b"], "error: can't use both instruction and class_name"),
        (["DATA", "--mode", "guess"], "error: Invalid value for '--mode'"),
        (["DATA", "--limit", "0"], "error: Invalid value for '--limit'"),
        (["DATA", "--frobnicate"], "error: No such option: --frobnicate"),
        ([], "error: Missing argument"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capfd, defects, args, line):
    code, out, err = command(capfd, *(defects if arg == "DATA" else arg for arg in args))
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_pictures_of_an_earlier_run_are_not_mixed_with_new_ones(capfd, defects, tmp_path):
    (tmp_path / "out" / "pictures" / "old").mkdir(parents=True)
    code, _, err = command(capfd, defects, "--out", tmp_path / "out")
    assert code == 2
    assert "holds an earlier evaluation's pictures" in err


def test_help_shows_an_example(capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["agvas-eval", "--help"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "agvas-eval data/mvtec --bundle bundles/tiny --out results/" in capfd.readouterr().out
