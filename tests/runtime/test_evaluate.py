"""agvas-eval: the scoring rules on an engine whose every number is known, and the command on the embedded bundle."""

import json
import math
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import console
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.datasets import load_dataset
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.evaluate.cli import app, main
from agvas_runtime.evaluate.pictures import CAPTION_PX, GAP_PX, file_name, folder_names, spread
from agvas_runtime.evaluate.report import as_report
from agvas_runtime.evaluate.rows import Evaluation, Row, _image_auroc
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.frames import read_image
from agvas_runtime.metrics import average_precision, f1_max
from agvas_runtime.modes import Mode, Request
from tests.runtime.red_source import Red, save


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
    return evaluate_dataset(Red(), load_dataset(root), **options).evaluation


def reported(evaluation, **settings):
    return console.finite(as_report(evaluation, "data", settings))


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
    assert [(image.name, image.reason) for image in evaluation.no_answers] == [("part/test/good/odd.png", "odd text")]


def test_an_engine_that_fails_stops_the_evaluation(data):
    save(data, "down", np.zeros((6, 6), np.uint8), blue=60)
    with pytest.raises(EngineError, match="out of memory"):
        scored(data)


def test_a_set_without_normal_images_has_no_iou_nor(data):
    for image in (data / "part" / "test" / "good").iterdir():
        image.unlink()
    evaluation = scored(data)
    assert math.isnan(evaluation.rows[0].iou_nor)
    report = reported(evaluation)
    assert report["mean"]["iou_nor"] is None
    assert report["categories"][0]["iou_ano"] == pytest.approx(25)


def test_the_mean_is_over_the_categories_where_a_figure_is_defined():
    rows = [Row("a", images=3, ap=10, iou_nor=50), Row("b", images=5, ap=30)]
    mean = Evaluation(rows).mean()
    assert (mean.ap, mean.iou_nor, mean.images) == (20, 50, 8)
    assert math.isnan(mean.iou_ano)


def test_every_image_is_asked_what_the_request_says_and_the_report_records_it(data):
    request = Request(Mode.DESCRIBE_PLUS, class_name="dents", normal_look="It is flat.")
    source = Red(request)
    done = evaluate_dataset(source, load_dataset(data))
    asked = {"mode": Mode.DESCRIBE_PLUS, "class_name": "dents", "normal_look": "It is flat."}
    assert source.engine.asked == (None, asked)
    report = as_report(done.evaluation, "data", done.settings)
    assert report["mode"] == "describe-plus"
    assert report["instruction"] == "describe-plus dents It is flat."


def test_regions_and_areas_tell_what_was_overlooked_and_what_is_too_small(tmp_path):
    """One image of two regions, one of them half found; one of a single region, found with four times its area."""
    two, one = np.zeros((8, 20), bool), np.zeros((20, 8), bool)
    two[1:3, 1:5] = two[5:7, 10:14] = one[4:6, 2:4] = True
    half, large = np.zeros((8, 20), np.uint8), np.zeros((20, 8), np.uint8)
    half[1:2, 1:5] = large[4:8, 2:6] = 255
    save(tmp_path, "two", half, truth=two)
    save(tmp_path, "one", large, truth=one)
    (row,) = scored(tmp_path).rows
    assert row.regions == 3
    assert row.region_recall == pytest.approx(100 * (0.5 + 0 + 1) / 3)
    assert row.regions_found == pytest.approx(200 / 3)
    assert row.several_found == pytest.approx(50)
    assert row.area_ratio == pytest.approx(100 * (0.25 + 4) / 2)  # the median of two
    assert row.iou_ano == pytest.approx(100 * (4 / 16 + 4 / 16) / 2)


def test_images_are_told_apart_by_the_maximum_of_their_maps(data):
    (row,) = scored(data).rows
    # defective: 200 and a rejection, so 0; normal: 40, 130 and no answer, so 0
    assert row.image_auroc == pytest.approx(100 * (3 + 0.5) / 6)
    assert row.answer_auroc == pytest.approx(50)  # this engine says the same of all


def test_scores_that_are_nearly_one_are_still_told_apart():
    """Answers of two normal and of two defective images: in float32 all four would be 1."""
    shares = [1 - 1e-9, 1 - 1e-10, 1 - 1e-11, 1 - 1e-12]
    records = [SimpleNamespace(answer_score=share) for share in shares]
    assert _image_auroc(records[:2], records[2:], "answer_score") == 1
    assert _image_auroc(records[2:], records[:2], "answer_score") == 0


def test_a_defective_image_with_an_empty_ground_truth_is_counted(tmp_path):
    nothing = np.zeros((6, 9), bool)
    save(tmp_path, "quiet", np.zeros((6, 9), np.uint8), truth=nothing)
    evaluation = scored(tmp_path)
    assert evaluation.rows[0].empty_truths == 1
    assert reported(evaluation)["mean"]["iou_ano"] is None  # nothing there, nothing found: no figure
    save(tmp_path, "alarm", np.full((6, 9), 255, np.uint8), truth=nothing)
    assert scored(tmp_path).rows[0].iou_ano == 0


def test_an_image_and_a_mask_of_different_sizes_are_refused_by_name(tmp_path):
    save(tmp_path, "turned", np.zeros((6, 9), np.uint8), truth=np.ones((9, 6), bool))
    with pytest.raises(InputError, match=r"turned_mask.png: the mask is 6 x 9, its image .*turned.png 9 x 6"):
        scored(tmp_path)


def test_without_masks_there_are_figures_of_images_only(data):
    shutil.rmtree(data / "part" / "ground_truth")
    evaluation = scored(data)
    (row,) = evaluation.rows
    assert row.image_auroc == pytest.approx(100 * 3.5 / 6)
    assert row.iou_nor == pytest.approx(200 / 3)
    undefined = ("ap", "f1_max", "iou_ano", "auroc", "pro", "region_recall", "area_ratio")
    assert all(math.isnan(getattr(row, name)) for name in undefined)
    assert {record.truth_px for record in evaluation.records if record.anomalous} == {None}


def test_of_a_folder_of_images_only_scores_are_told(data, capfd, tmp_path):
    folder = data / "part" / "test" / "good"
    evaluation = scored(folder)
    assert [(record.name, round(record.score, 2)) for record in evaluation.records] == [
        ("alarm.png", 0.51), ("odd.png", 0), ("quiet.png", 0.16)]  # fmt: skip
    code, _, err = command(capfd, folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "name --out for their scores" in err


def test_a_fixed_size_is_scored_on_that_many_pixels(tmp_path):
    truth, found = np.zeros((40, 80), bool), np.zeros((40, 80), np.uint8)
    truth[10:20, 20:60], found[10:20, 20:40] = True, 255
    save(tmp_path, "wide", found, truth=truth)
    evaluation = scored(tmp_path, size=20, out=tmp_path / "out")
    (record,) = evaluation.records
    assert (record.size, record.truth_px, record.mask_px) == ((20, 20), 5 * 10, 5 * 5)
    assert record.iou == pytest.approx(0.5)
    assert reported(evaluation, size=20)["protocol"]["size"].startswith("20 x 20")
    assert reported(evaluation, size=None)["protocol"]["size"] == "each image's own"


def test_the_limit_is_spread_over_the_category(data):
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 12) == [0, 1, 2]
    row = scored(data, limit=2).rows[0]
    assert (row.images, row.normal, row.anomalous) == (2, 1, 1)


def test_no_two_categories_share_a_folder_of_pictures():
    names = folder_names(["a b", "a/b", "a_b", "A?b", "a_b_2", "nut"])
    assert names == {"a b": "a_b", "a/b": "a_b_2", "a_b": "a_b_3", "A?b": "A_b_4", "a_b_2": "a_b_2_2", "nut": "nut"}


def test_pictures_stand_beside_a_contact_sheet(data, tmp_path):
    out = tmp_path / "out"
    scored(data, out=out)
    names = sorted(path.name for path in (out / "pictures" / "part").iterdir())
    assert names == ["0000_crack_half.jpg", "0001_crack_missed.jpg", "0002_good_alarm.jpg", "0003_good_odd.jpg",
                     "0004_good_quiet.jpg"]  # fmt: skip
    strip = read_image(out / "pictures" / "part" / names[0])
    assert strip.shape[1] > 3 * 20
    assert read_image(out / "pictures" / "part_sheet.jpg").shape[0] > strip.shape[0]
    worst = read_image(out / "pictures" / "part_worst.jpg")  # three: both defects and the false alarm, so one row
    assert worst.shape[0] == 3 * 10 + CAPTION_PX + GAP_PX


def test_file_names_cannot_leave_their_folder():
    assert file_name("../../etc/passwd") == "_.._etc_passwd"
    assert file_name("x" * 300) == "x" * 200
    assert len(file_name("ä" * 300).encode()) == 200
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
    images = [json.loads(line) for line in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    assert [image["name"] for image in images][:2] == ["bar/test/good/0.png", "bar/test/spot/0.png"]
    assert not (tmp_path / "out" / "unfinished").exists()
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


def test_the_table_fits_120_columns_with_all_its_figures(capfd, data):
    save(data, "two", np.zeros((5, 5), np.uint8), truth=np.eye(5, dtype=bool) & (np.arange(5) % 2 == 0))
    code, out, _ = command(capfd, data, "--threads", 1)
    assert code == 0
    words = ("AP", "F1-Max", "IoU_ano", "IoU_nor", "AUROC", "PRO", "answer", "recall", "found", "several", "ratio")
    assert [word for word in words if word not in out] == []
    assert max(map(len, out.splitlines())) <= 120


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
        (["DATA", "--maps", "x", "--bundle", "y"], "error: can't use --maps beside a model"),
        (["DATA", "--maps", "nowhere"], "error: nowhere: no such folder of score maps"),
        (["DATA", "--threshold", "0.3"], "error: --threshold goes with --maps"),
        (["DATA", "--resume"], "error: --resume needs --out"),
        (["DATA", "--beside", "nowhere"], "error: nowhere: no results of agvas-eval"),
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


def test_a_defect_that_is_smaller_than_a_pixel_of_the_scored_size_is_still_one(tmp_path):
    """Two pixels by two of 256 x 256, which nothing finds: missed at every size."""
    truth = np.zeros((256, 256), bool)
    truth[100:102, 100:102] = True
    save(tmp_path, "speck", np.zeros((256, 256), np.uint8), truth=truth)
    for size in (None, 64, 16):
        (row,) = scored(tmp_path, size=size).rows
        assert (row.empty_truths, row.regions, row.regions_found, row.iou_ano) == (0, 1, 0, 0)
