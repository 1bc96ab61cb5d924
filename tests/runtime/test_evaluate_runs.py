"""agvas-eval: interrupted runs that go on, several processes, results side by side."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agvas_runtime import console
from agvas_runtime.datasets import load_dataset
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.evaluate import run
from agvas_runtime.evaluate.cli import app
from agvas_runtime.evaluate.report import as_report, read_results, write_results
from agvas_runtime.evaluate.run import evaluate_dataset
from tests.runtime.red_source import Red, save

RANDOM = np.random.default_rng(3)


@pytest.fixture
def data(tmp_path):
    """Two categories of two defective and one normal image."""
    for category in ("cap", "nut"):
        for name in ("0", "1"):
            truth = RANDOM.random((9, 14)) < 0.2
            red = (RANDOM.random((9, 14)) * 150 + 100 * truth).astype(np.uint8)
            save(tmp_path / "data", name, red, truth=truth, category=category)
        save(tmp_path / "data", "0", (RANDOM.random((14, 9)) * 140).astype(np.uint8), category=category)
    return load_dataset(tmp_path / "data")


def results(done):
    """The report, and every image's record without its time."""
    report = console.finite(as_report(done.evaluation, "data", done.settings))
    for row in (*report["categories"], report["mean"]):
        assert row.pop("ms_per_image") > 0
    return report, [{**vars(record), "elapsed_ms": None} for record in done.evaluation.records], done.weights_note


def pictures(out):
    return {path.relative_to(out): path.read_bytes() for path in (out / "pictures").rglob("*.jpg")}


@pytest.mark.parametrize("stopped_after", [1, 2, 3, 5])
def test_an_interrupted_run_goes_on_image_by_image(data, tmp_path, stopped_after):
    whole = evaluate_dataset(Red(), data, out=tmp_path / "whole")
    first, second = Red(fails_after=stopped_after), Red()
    with pytest.raises(EngineError):
        evaluate_dataset(first, data, out=tmp_path / "out")
    done = evaluate_dataset(second, data, out=tmp_path / "out", resume=True)
    assert [*first.asked, *second.asked] == [item.name for item in data.items]
    assert results(done) == results(whole)
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")


def test_what_is_kept_of_a_run_is_small_and_goes_with_its_end(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=4), data, out=out)
    kept = sorted(str(path.relative_to(out / "unfinished")) for path in (out / "unfinished").rglob("*.*"))
    assert kept == ["0000.json", "0001/000000.json", "0001/000000.npz", "settings.json"]  # no pixels of a done category
    done = evaluate_dataset(Red(), data, out=out, resume=True)
    write_results(out, as_report(done.evaluation, "data", done.settings), done.evaluation)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "images.jsonl", "pictures", "results.json"]


@pytest.mark.parametrize("changed", ["size", "limit", "mode", "data"])
def test_other_settings_refuse_to_resume_by_one_line(data, tmp_path, changed):
    out, source, options = tmp_path / "out", Red(), {}
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=1), data, out=out)
    if changed in ("size", "limit"):
        options, line = {changed: 2}, f"settings.json: {changed}: found None, expected 2; --resume goes on with"
    elif changed == "mode":
        source.settings = lambda items: {**Red().settings(items), "mode": "explain"}
        line = "settings.json: mode: found 'direct', expected 'explain'"
    else:
        save(tmp_path / "data", "2", np.zeros((9, 9), np.uint8), category="nut")
        data, line = load_dataset(tmp_path / "data"), "settings.json: images_sha256: found"
    with pytest.raises(InputError, match=line):
        evaluate_dataset(source, data, out=out, resume=True, **options)
    assert source.asked == []


def test_a_new_run_does_not_mix_with_an_interrupted_or_a_finished_one(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=1), data, out=out)
    with pytest.raises(InputError, match="holds an interrupted evaluation; go on with --resume, or delete it"):
        evaluate_dataset(Red(), data, out=out)
    done = evaluate_dataset(Red(), data, out=out, resume=True)
    write_results(out, as_report(done.evaluation, "data", done.settings), done.evaluation)
    with pytest.raises(InputError, match="holds an earlier evaluation's pictures; name another --out"):
        evaluate_dataset(Red(), data, out=out, resume=True)


def test_a_second_run_into_the_folder_of_one_that_runs_is_refused(data, tmp_path):
    out, first, second = tmp_path / "out", Red(), Red()
    answer = first.answer

    def meanwhile(item):
        with pytest.raises(InputError, match="out: another process evaluates into this folder now; name another --out"):
            evaluate_dataset(second, data, out=out, resume=True)
        return answer(item)

    first.answer = meanwhile
    done = evaluate_dataset(first, data, out=out)
    assert second.asked == []
    assert results(done) == results(evaluate_dataset(Red(), data))


def test_a_kept_image_that_is_damaged_is_one_line(data, tmp_path):
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=4), data, out=tmp_path / "out")
    kept = tmp_path / "out" / "unfinished" / "0001" / "000000.npz"
    kept.write_bytes(b"PK" + kept.read_bytes()[2 : kept.stat().st_size // 2])
    with pytest.raises(InputError, match=r"0001/000000: damaged .* delete it to score it again"):
        evaluate_dataset(Red(), data, out=tmp_path / "out", resume=True)


@pytest.mark.parametrize("text", ["[]", "7", "null", "[" * 100_000, '"x"'])
def test_settings_that_are_none_are_one_line(data, tmp_path, text):
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=4), data, out=tmp_path / "out")
    (tmp_path / "out" / "unfinished" / "settings.json").write_text(text)
    with pytest.raises(InputError, match=r"settings.json: .*so nothing here can be resumed; delete .*unfinished$"):
        evaluate_dataset(Red(), data, out=tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("name", "places", "value", "told"),
    [
        ("0000.json", ("row", "ap"), "high", "ap: Input should be a valid number"),
        ("0000.json", ("row",), [1], "damaged"),
        ("0000.json", ("records",), [[]], "damaged"),
        ("0000.json", ("note",), 7, "1: Input should be a valid string"),
        ("0001/000000.json", ("record", "size"), 7, "size: Input should be a valid tuple"),
        ("0001/000000.json", ("record", "score"), None, "score: Input should be a valid number"),
        ("0001/000000.json", ("instruction",), None, "0: Input should be a valid string"),
        ("0001/000000.json", (), [], "damaged"),
    ],
)
def test_kept_figures_of_another_type_are_one_line(data, tmp_path, name, places, value, told):
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=4), data, out=tmp_path / "out")
    file = tmp_path / "out" / "unfinished" / name
    kept = {"": json.loads(file.read_text())}
    place = kept
    for each in ("", *places)[:-1]:
        place = place[each]
    place[("", *places)[-1]] = value
    file.write_text(json.dumps(kept[""]))
    with pytest.raises(InputError, match=rf"{file.stem}.*: damaged \(.*\); delete it to score it again") as fault:
        evaluate_dataset(Red(), data, out=tmp_path / "out", resume=True)
    assert told in str(fault.value)
    assert "\n" not in str(fault.value)


def test_no_two_categories_write_over_each_other_s_pictures(tmp_path):
    for category in ("a b", "a_b"):
        save(tmp_path / "data", "0", np.zeros((9, 14), np.uint8), category=category)
    evaluate_dataset(Red(), load_dataset(tmp_path / "data"), out=tmp_path / "out")
    assert {path.parent.name for path in pictures(tmp_path / "out")} == {"a_b", "a_b_2", "pictures"}


def test_a_name_that_is_no_utf_8_is_scored_and_written_as_any_other(data, tmp_path):
    image = data.items[0].image
    os.rename(image, os.fsencode(image.parent) + b"/kratzer_\xe4.png")
    if (mask := data.items[0].mask) is not None:
        os.rename(mask, os.fsencode(mask.parent) + b"/kratzer_\xe4" + os.fsencode(mask.name.removeprefix(image.stem)))
    again = load_dataset(tmp_path / "data")
    done = evaluate_dataset(Red(), again, out=tmp_path / "out")
    write_results(tmp_path / "out", as_report(done.evaluation, "data", done.settings), done.evaluation)
    names = [json.loads(line)["name"] for line in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    assert sum("kratzer_\udce4" in name for name in names) == 1


def test_a_run_that_never_scored_an_image_is_begun_anew(data, tmp_path):
    with pytest.raises(EngineError):
        evaluate_dataset(Red(fails_after=0), data, size=3, out=tmp_path / "out")
    assert len(evaluate_dataset(Red(), data, out=tmp_path / "out").evaluation.records) == 6


def test_a_run_that_was_killed_between_the_first_picture_and_its_figures_goes_on(data, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def killed(*_):
        raise EngineError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(run, "save_image", killed)
        with pytest.raises(EngineError):
            evaluate_dataset(Red(), data, out=out)
    assert pictures(out)
    with pytest.raises(InputError, match="holds an interrupted evaluation; go on with --resume"):
        evaluate_dataset(Red(), data, out=out)
    assert len(evaluate_dataset(Red(), data, out=out, resume=True).evaluation.records) == 6


def test_several_processes_find_what_one_finds(data, tmp_path):
    one = evaluate_dataset(Red(), data, out=tmp_path / "one")
    several = evaluate_dataset(Red(), data, out=tmp_path / "several", jobs=2)
    assert results(several) == results(one)
    assert pictures(tmp_path / "several") == pictures(tmp_path / "one")


class Dying(Red):
    """A source whose process is killed, as by the kernel when memory is short."""

    def answer(self, item):
        if item.kind == "good":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(item)


def test_a_process_that_dies_ends_the_run_which_can_go_on(data, tmp_path):
    with pytest.raises(EngineError, match="a process of the evaluation died"):
        evaluate_dataset(Dying(), data, out=tmp_path / "out", jobs=2)
    done = evaluate_dataset(Red(), data, out=tmp_path / "out", resume=True)
    assert results(done) == results(evaluate_dataset(Red(), data))


def test_results_stand_beside_earlier_ones_in_the_papers_layout(data, tmp_path, capfd):
    done = evaluate_dataset(Red(), data)
    for name in ("rednet", "rednet2"):
        write_results(tmp_path / name, as_report(done.evaluation, "data", done.settings), done.evaluation)
    beside = ["--beside", str(tmp_path / "rednet"), "--beside", str(tmp_path / "rednet2" / "results.json")]
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(tmp_path / "data"), "--threads", "1", *beside])
    printed = capfd.readouterr().out
    assert left.value.code == 0
    titles = [line for line in printed.splitlines() if line.startswith("data: ") and line.rstrip().endswith("percent")]
    assert [title.split(",")[0] for title in titles] == ["data: AP", "data: F1-Max", "data: IoU_ano", "data: IoU_nor"]
    heads = [line.split() for line in printed.splitlines() if line.strip().startswith("object")]
    assert heads == [["object", "rednet", "rednet2", "this"]] * 4
    ap = next(line.split() for line in printed.split("data: AP")[1].splitlines() if line.strip().startswith("mean"))
    assert ap[1] == ap[2] == f"{done.evaluation.mean().ap:.1f}"
    with pytest.raises(SystemExit):
        console.run(app, [str(tmp_path / "data"), "--threads", "1", "--limit", "1", *beside[:2]])
    printed = capfd.readouterr()
    assert "rednet *" in printed.out
    assert "* rednet: results of other images (--limit?) or at another --size, not to be compared" in printed.err
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_text(json.dumps({**as_report(done.evaluation, "visa", {})}))
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(tmp_path / "data"), "--beside", str(other)])
    assert left.value.code == 2
    assert "results.json: results of data set 'visa', expected 'data'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ([1], "found [1], expected an object"),
        ({"dataset": 7}, "dataset: found 7, expected a name"),
        ({"mean": 5}, "found 5, expected an object"),
        ({"categories": "ab"}, "found 'a', expected an object"),
        ({"categories": [{"category": [1]}]}, "category: found [1], expected a name"),
        ({"mean": {"ap": "80", "f1_max": 1, "iou_ano": 1, "iou_nor": 1}}, "ap: found '80', expected a number or null"),
        ({"mean": {"ap": 10**400, "f1_max": 1, "iou_ano": 1, "iou_nor": 1}}, "too large"),
    ],
)
def test_results_of_other_types_are_none_to_stand_beside(data, tmp_path, changed, told):
    report = console.finite(as_report(evaluate_dataset(Red(), data).evaluation, "data", {}))
    (tmp_path / "results.json").write_text(json.dumps({**report, **changed} if isinstance(changed, dict) else changed))
    with pytest.raises(InputError, match=re.escape(told)) as fault:
        read_results(tmp_path, "data")
    assert str(fault.value).startswith(f"{tmp_path / 'results.json'}: no results of agvas-eval (")
    assert "\n" not in str(fault.value)


class Waiting(Red):
    """A source that says which process asks it, and never answers."""

    def answer(self, item):
        print(os.getpid(), flush=True)
        signal.pause()


KILLED = """
from agvas_runtime.datasets import load_dataset
from agvas_runtime.evaluate.run import evaluate_dataset
from tests.runtime.test_evaluate_runs import Waiting
if __name__ == "__main__":
    evaluate_dataset(Waiting(), load_dataset(DATA), jobs=2)
"""


def test_processes_end_with_the_first_one_even_when_it_is_killed(data, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("DATA", repr(str(tmp_path / "data"))))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    first = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    workers = [os.pidfd_open(int(first.stdout.readline())) for _ in range(2)]
    first.kill()
    first.wait()
    first.stdout.close()
    for worker in workers:
        assert select.select([worker], [], [], 60)[0], "a process outlived the one that began it"
        os.close(worker)
