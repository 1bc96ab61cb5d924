"""agvas-eval beside the paper's own figures, and over all of its test sets."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import console
from agvas_runtime.datasets import load_dataset
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.evaluate.benchmarks import evaluate_benchmarks, find_benchmarks
from agvas_runtime.evaluate.cli import app
from agvas_runtime.evaluate.paper import beside_paper, categories, paper_figures
from agvas_runtime.evaluate.report import PAPER, as_report
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Maps
from tests.runtime.red_source import Red, save

REPOSITORY = Path(__file__).resolve().parents[2]
PLACES = [os.environ.get("AGVAS_SHARED"), REPOSITORY / "shared", REPOSITORY.parent / "shared"]
ROUNDED = {("ap", "AnomalyCLIP"), ("f1_max", "LISA-13B*"), ("iou_ano", "LISA-7B"), ("iou_ano", "LISA-OV")}
"""Where the printed mean is not that of the printed categories: off by less than 0.07, as rounding leaves it."""


def test_the_figures_are_the_papers_number_by_number():
    found = [file for place in PLACES if place and (file := Path(place) / "ag-vas-appendix.txt").is_file()]
    if not found:
        pytest.skip("no appendix of the paper beside the repository (AGVAS_SHARED)")
    appendix, paper = found[0].read_text("utf-8"), paper_figures()
    for figure, table in paper["tables"].items():
        printed = appendix.split(f"Table {table['table']}. Comparison of different categories in terms of ")[1]
        title, _, head, *lines = printed.splitlines()[:19]
        assert figure in title.lower().replace("{", "").replace("}", "").replace("-", "_").replace("hor", "nor")
        assert head.split("\t") == ["object", *paper["methods"]]
        rows = {name: [float(value) for value in values] for name, *values in (line.split("\t") for line in lines)}
        assert rows == table["rows"]


def test_ten_methods_fifteen_categories_and_the_printed_means():
    paper = paper_figures()
    assert (len(paper["methods"]), len(categories()), tuple(paper["tables"])) == (10, 15, PAPER)
    assert [table["rows"]["mean"][-1] for table in paper["tables"].values()] == [51.0, 52.7, 44.8, 87.7]
    off = set()
    for figure, table in paper["tables"].items():
        assert list(table["rows"]) == [*categories(), "mean"]
        for place, method in enumerate(paper["methods"]):
            mean = sum(table["rows"][name][place] for name in categories()) / 15
            assert mean == pytest.approx(table["rows"]["mean"][place], abs=0.07)
            if abs(mean - table["rows"]["mean"][place]) > 0.0501:
                off.add((figure, method))
    assert off == ROUNDED


def fill(root, names):
    """A normal and a defective image of each category, and maps that find half of the defect."""
    for number, name in enumerate(names):
        truth, found = np.zeros((8, 12), bool), np.zeros((8, 12), np.uint8)
        truth[2:6, 2:6] = True
        found[2:4, 2:6] = 200 - number
        save(root, "0", found, truth=truth, category=name)
        save(root, "1", np.full((8, 12), 100 + 60 * (number == 0), np.uint8), category=name)
    return root


def maps_of(root, out):
    for image in root.rglob("test/*/*.png"):
        path = out / image.relative_to(root).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(Image.open(image))[:, :, 0].astype(np.float32) / 255)
    return out


def reported(root):
    done = evaluate_dataset(Red(), load_dataset(root))
    return as_report(done.evaluation, "data", done.settings)


def command(capfd, *args):
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(arg) for arg in args])
    out, err = capfd.readouterr()
    return left.value.code, out, err


def test_ours_stand_behind_theirs_and_what_is_not_there_is_none(tmp_path):
    beside = beside_paper(reported(fill(tmp_path / "data", ["tile", "zipper", "gear"])))
    assert beside["columns"] == [*paper_figures()["methods"], "this"]
    assert {figure: each["table"] for figure, each in beside["tables"].items()} == dict(
        zip(PAPER, ("A.4", "A.5", "A.6", "A.7"), strict=True)
    )
    rows = beside["tables"]["iou_nor"]["rows"]
    assert list(rows) == [*categories(), "mean", "mean of 2"]
    assert rows["tile"][-2:] == [97.0, 0.0]
    assert rows["zipper"][-2:] == [93.8, 100.0]
    assert rows["bottle"][-2:] == [85.0, None]
    assert rows["mean"][-2:] == [87.7, None]
    assert rows["mean of 2"][-2:] == pytest.approx([(97.0 + 93.8) / 2, 50.0])
    assert beside["tables"]["iou_ano"]["rows"]["tile"][-1] == pytest.approx(50)
    few, others = beside["notes"]
    assert few.startswith("ours are 2 of the paper's 15 categories, without bottle, cable, ")
    assert others == "not among the paper's categories, and so not in its tables: gear"


def test_with_all_fifteen_there_is_one_mean(tmp_path):
    report = reported(fill(tmp_path / "data", [*categories(), "gear"]))
    beside = beside_paper(report)
    assert beside["notes"] == ["not among the paper's categories, and so not in its tables: gear"]
    rows = beside["tables"]["iou_nor"]["rows"]
    assert list(rows) == [*categories(), "mean"]
    assert rows["mean"][-1] == pytest.approx(100 * 14 / 15)


def test_a_figure_that_is_undefined_in_a_category_leaves_it_out_of_the_means(tmp_path):
    fill(tmp_path / "data", ["tile", "zipper"])
    (tmp_path / "data/tile/test/good/1.png").unlink()
    rows = beside_paper(reported(tmp_path / "data"))["tables"]["iou_nor"]["rows"]
    assert rows["tile"][-1] is None
    assert rows["mean of 1"][-2:] == [93.8, 100.0]


def test_the_command_prints_the_four_tables(capfd, tmp_path):
    data = fill(tmp_path / "data", ["tile", "zipper"])
    options = ["--maps", maps_of(data, tmp_path / "maps"), "--beside-paper"]
    code, out, err = command(capfd, data, *options)
    assert code == 0
    titles = [line.strip() for line in out.splitlines() if line.startswith("Table ")]
    figures = ("A.4: AP", "A.5: F1-Max", "A.6: IoU_ano", "A.7: IoU_nor")
    assert titles == [f"Table {each} on MVTec-AD, percent" for each in figures]
    assert max(map(len, out.splitlines())) <= 120
    last = out.split("Table A.7")[1].splitlines()
    heads = next(line.split() for line in last if line.strip().startswith("object"))
    assert heads == ["object", *paper_figures()["methods"], "this"]
    assert next(line.split() for line in last if line.strip().startswith("tile"))[-2:] == ["97.0", "0.0"]
    assert next(line.split() for line in last if line.strip().startswith("wood"))[-2:] == ["100.0", "n/a"]
    assert "ours are 2 of the paper's 15 categories, without bottle, " in err
    assert "--limit" not in err
    _, _, err = command(capfd, data, *options, "--size", 8)
    assert "ours are of some images (--limit) or at another size (--size)" in err


def test_the_papers_tables_are_in_the_json(capfd, tmp_path):
    data, out = fill(tmp_path / "data", ["tile"]), tmp_path / "out"
    code, printed, _ = command(
        capfd, data, "--maps", maps_of(data, tmp_path / "maps"), "--beside-paper", "--json", "--out", out
    )
    assert code == 0
    report = json.loads(printed)
    assert report["paper"]["tables"]["iou_nor"]["rows"]["tile"] == [
        *paper_figures()["tables"]["iou_nor"]["rows"]["tile"],
        0,
    ]
    assert "arXiv 2603.01305" in report["paper"]["source"]
    assert json.loads((out / "results.json").read_text()) == report


def test_a_set_without_the_papers_categories_is_one_line_before_anything_is_scored(capfd, tmp_path):
    data = fill(tmp_path / "data", ["gear", "cap"])
    code, out, err = command(capfd, data, "--maps", tmp_path / "none", "--beside-paper")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: data: found the categories cap, gear; expected some of the paper's tables: bottle, ")


def test_names_are_no_markup(capfd, tmp_path):
    names = ["[bold]cap", ":warning: nut[/red]"]
    data = tmp_path / "[blink]data"
    fill(data, ["a", "b"])
    listed = {}
    for name, folder in zip(names, ("a", "b"), strict=True):
        good = {"img_path": f"{folder}/test/good/1.png", "mask_path": "", "anomaly": 0}
        bad = {"img_path": f"{folder}/test/crack/0.png", "mask_path": f"{folder}/ground_truth/crack/0_mask.png"}
        listed[name] = [good, bad | {"anomaly": 1}]
    (data / "meta.json").write_text(json.dumps({"test": listed}))
    maps = maps_of(data, tmp_path / "maps")
    code, _, _ = command(capfd, data, "--maps", maps, "--out", tmp_path / "[i]out")
    assert code == 0
    code, out, _ = command(capfd, data, "--maps", maps, "--beside", tmp_path / "[i]out")
    assert code == 0
    assert [name for name in (*names, "[blink]data: percent", "[i]out") if name not in out] == []
    assert out.count("[bold]cap") == 2 + 4  # figures, counts, four tables beside


@pytest.fixture
def tree(tmp_path):
    """The paper's tree with two of its test sets."""
    root = tmp_path / "tree"
    fill(root / "anomaly_seg/mvtec", ["tile", "zipper"])
    fill(root / "anomaly_seg/KSDD2", ["KSDD2"])
    (root / "anomaly_seg/Road/road/test/good").mkdir(parents=True)  # for training
    return root


def test_one_command_scores_every_test_set_and_prints_the_papers_tables(capfd, tree, tmp_path):
    maps = maps_of(tree / "anomaly_seg", tmp_path / "maps")
    code, out, _ = command(capfd, tree, "--benchmarks", "--maps", maps, "--out", tmp_path / "out")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.split("Table")[0].splitlines() if line.strip()}
    assert rows["mvtec"][:3] == ["2", "4", "2"]
    assert rows["KSDD2"][:3] == ["1", "2", "1"]
    assert rows["mvtec"][-1] == "50.0"
    assert "Road" not in out
    assert out.count("on MVTec-AD, percent") == 4
    results = json.loads((tmp_path / "out/benchmarks.json").read_text())
    assert list(results["sets"]) == ["mvtec", "KSDD2"]
    assert results["sets"]["KSDD2"] == json.loads((tmp_path / "out/KSDD2/results.json").read_text())
    assert results["paper"]["tables"]["iou_nor"]["rows"]["tile"][-1] == 0
    assert (tmp_path / "out/mvtec/pictures/tile_sheet.jpg").is_file()
    code, printed, _ = command(capfd, tree, "--benchmarks", "--maps", maps, "--json")
    assert (code, json.loads(printed)["paper"]) == (0, results["paper"])


def test_maps_of_a_set_that_the_papers_own_list_names_lie_in_one_folder_of_its_name(tree, tmp_path):
    maps, place = Maps(maps_of(tree / "anomaly_seg", tmp_path / "maps")), tree / "anomaly_seg/mvtec"
    before = evaluate_benchmarks(maps, find_benchmarks(tree), None)
    listed = {}
    for item in load_dataset(place).items:
        mask = f"mvtec/{item.mask.relative_to(place)}" if item.mask else ""
        record = {"img_path": f"mvtec/{item.name}", "mask_path": mask, "specie_name": item.kind}
        listed.setdefault(item.category, []).append(record | {"anomaly": int(item.anomalous)})
    (tree / "anomaly_seg/meta_mvtec.json").write_text(json.dumps({"train": {}, "test": listed}))
    datasets = find_benchmarks(tree)
    assert {item.name.split("/")[0] for item in datasets[0].items} == {"mvtec"}
    assert evaluate_benchmarks(maps, datasets, None)["paper"] == before["paper"]


def test_every_sets_place_is_looked_at_before_the_first_is_scored(tree, tmp_path):
    (tmp_path / "out/KSDD2").mkdir(parents=True)
    (tmp_path / "out/KSDD2/results.json").write_text("{}")
    source = Red()
    with pytest.raises(InputError, match=r"KSDD2/results.json: holds an earlier evaluation's results.json; name"):
        evaluate_benchmarks(source, find_benchmarks(tree), tmp_path / "out")
    assert source.asked == []
    assert not (tmp_path / "out/mvtec").exists()


def test_a_set_as_it_is_downloaded_is_one_line_that_says_what_to_do(capfd, tree, tmp_path):
    (tree / "anomaly_seg/RSDD/GroundTruth").mkdir(parents=True)
    code, out, err = command(capfd, tree, "--benchmarks", "--maps", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {tree}/anomaly_seg/RSDD: no data set here ")
    assert "; agvas-data standardize rsdd makes one of the original download" in err


def test_visa_is_read_as_it_is_downloaded(capfd, tree, tmp_path):
    split = tree / "anomaly_seg/visa/split_csv/1cls.csv"
    split.parent.mkdir(parents=True)
    split.write_text("object,split,label,image,mask\npcb1,test,normal,gone.png,\n")
    code, out, err = command(capfd, tree, "--benchmarks", "--maps", tmp_path)
    assert (code, out) == (2, "")
    assert err == f"error: {tree}/anomaly_seg/visa/gone.png: the data set lists this image, but there is none\n"
    save(split.parents[1], "0", np.zeros((4, 4), np.uint8))
    split.write_text("object,split,label,image,mask\npcb1,test,normal,part/test/good/0.png,\n")
    assert list(find_benchmarks(tree)[1].categories) == ["pcb1"]


def without_times(results):
    for report in results["sets"].values():
        for row in (*report["categories"], report["mean"]):
            row["ms_per_image"] = None
    return console.finite(results)


@pytest.mark.parametrize("stopped_after", [1, 4, 5])
def test_an_interrupted_run_over_the_sets_goes_on(tree, tmp_path, stopped_after):
    datasets = find_benchmarks(tree)
    first, second = Red(fails_after=stopped_after), Red()
    with pytest.raises(EngineError):
        evaluate_benchmarks(first, datasets, tmp_path / "out")
    results = evaluate_benchmarks(second, datasets, tmp_path / "out", resume=True)
    assert [*first.asked, *second.asked] == [item.name for dataset in datasets for item in dataset.items]
    assert without_times(results) == without_times(evaluate_benchmarks(Red(), datasets, None))


def test_a_finished_set_of_other_settings_is_not_taken_over(tree, tmp_path):
    datasets = find_benchmarks(tree)
    evaluate_benchmarks(Red(), datasets[:1], tmp_path / "out")
    with pytest.raises(InputError, match=r"mvtec/results.json: limit: found None, expected 1; --resume goes on with"):
        evaluate_benchmarks(Red(), datasets, tmp_path / "out", limit=1, resume=True)
    (tmp_path / "out/mvtec/results.json").write_text("{}")
    with pytest.raises(InputError, match=r"mvtec/results.json: no results of agvas-eval"):
        evaluate_benchmarks(Red(), datasets, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "error: ROOT: found no test set, expected some of mvtec, visa, KSDD2"),
        (("--beside-paper",), "error: --benchmarks goes without --beside"),
        (("--beside", "x"), "error: --benchmarks goes without --beside"),
    ],
)
def test_bad_usage_is_one_line(capfd, tmp_path, options, line):
    code, out, err = command(capfd, tmp_path, "--benchmarks", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(line.replace("ROOT", str(tmp_path)))
