"""agvas-bench compare: what it finds in recorded runs, what it does not, and what it says of misfits."""

import copy
import json

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from agvas_runtime.bench.cli import app
from agvas_runtime.bench.cli_compare import compared
from agvas_runtime.bench.compare.change import RUN_TO_RUN, Verdict, changes, student
from agvas_runtime.bench.compare.circumstances import differences
from agvas_runtime.bench.compare.series import BLOCK, Series, blocks_of, quiet_turns
from agvas_runtime.errors import InputError

from .bench_reports import engine_report, serve_report, with_everything


def written(folder, name, report):
    path = folder / name
    path.write_text(json.dumps(report))
    return str(path)


def slowed(report, stage, times):
    """The report with a stage of the first contender that takes so many times as long."""
    changed = copy.deepcopy(report)
    values = changed["contenders"][0]["samples"]["times_ms"]
    for turn, value in enumerate(values[stage]):
        values["call"][turn] += value * (times - 1)
        values[stage][turn] = value * times
    return changed


def verdicts(old, new):
    found = compared(old, new, "old", "new")["changes"]
    return {each["what"]: Verdict(each["verdict"]) for each in found if each["of"] == "ort"}


@pytest.fixture(scope="module")
def report():
    return engine_report({"ort": 1.0, "reference": 3.0})


def test_a_stage_that_is_slower_is_named_and_those_beside_it_are_not(report):
    found = verdicts(report, slowed(report, "llm", 1.3))
    assert found["llm"] is Verdict.SLOWER
    assert {found[stage] for stage in ("decode", "encoders", "decoder")} == {Verdict.SAME}
    assert verdicts(slowed(report, "llm", 1.3), report)["llm"] is Verdict.FASTER


def test_a_change_that_noise_between_runs_would_explain_is_none(report):
    assert verdicts(report, slowed(report, "encoders", 1.05))["encoders"] is Verdict.SAME


def test_a_wilder_run_needs_a_larger_change(report):
    wild = copy.deepcopy(report)
    values = wild["contenders"][0]["samples"]["times_ms"]["llm"]
    for number, block in enumerate(blocks_of(len(values))):
        values[block] = [value * (1.5 if number % 2 else 1) for value in values[block]]
    assert verdicts(report, slowed(report, "llm", 1.3))["llm"] is Verdict.SLOWER
    assert verdicts(wild, slowed(wild, "llm", 1.3))["llm"] is Verdict.SAME


def test_blocks_in_which_the_machine_did_other_work_are_left_out(report):
    busy, turns = copy.deepcopy(report), report["frames"]
    for times in busy["contenders"][0]["samples"]["times_ms"].values():
        times[: turns // 2] = [value * 3 for value in times[: turns // 2]]
    busy["elsewhere_ms"] = [1000.0] * (turns // 2) + [0.0] * (turns - turns // 2)
    quiet = quiet_turns(busy, None)
    assert not quiet[: turns // 2 - BLOCK].any()
    assert quiet[turns // 2 + BLOCK :].all()
    assert set(verdicts(report, busy).values()) == {Verdict.SAME}
    busy["elsewhere_ms"] = [1000.0] * turns
    assert set(verdicts(report, busy).values()) == {Verdict.UNCLEAR}


def test_a_machine_that_was_slower_itself_tells_nothing_of_the_program(report):
    slower = copy.deepcopy(report)
    for name in ("encoders", "call"):
        values = slower["contenders"][0]["samples"]["times_ms"][name]
        values[:] = [value * 1.5 for value in values]
    assert verdicts(report, slower)["encoders"] is Verdict.SLOWER
    slower["yardstick_ms"] = [value * 1.4 for value in slower["yardstick_ms"]]
    assert set(verdicts(report, slower).values()) == {Verdict.UNCLEAR}


def test_few_frames_tell_nothing():
    few, many = (engine_report({"ort": 1.0}, frames=blocks * BLOCK) for blocks in (4, 5))
    assert set(verdicts(few, slowed(few, "llm", 2.0)).values()) == {Verdict.UNCLEAR}
    assert verdicts(many, slowed(many, "llm", 2.0))["llm"] is Verdict.SLOWER


@pytest.mark.parametrize(
    ("count", "lengths"), [(0, []), (1, [1]), (20, [20]), (39, [39]), (40, [20, 20]), (59, [20, 39])]
)
def test_turns_are_taken_in_blocks_and_what_is_left_over_belongs_to_the_last(count, lengths):
    assert [block.stop - block.start for block in blocks_of(count)] == lengths
    assert [turn for block in blocks_of(count) for turn in range(count)[block]] == list(range(count))


@pytest.mark.parametrize("blocks", [5, 12])
def test_unchanged_runs_seldom_raise_an_alarm(blocks):
    """Drawn runs that differ by the noise that is allowed for, from run to run and from block to block.

    One in a hundred is what is promised; more than 8 of 200 have a chance of 0.03 %.
    """
    random, alarms = np.random.default_rng(0), 0
    for _ in range(200):
        runs = []
        for _ in range(2):
            logs = random.normal(0, RUN_TO_RUN["engine"], (9, 1)) + random.normal(0, 0.07, (9, blocks))
            runs.append({("ort", str(n)): Series("ort", str(n), [1.0], np.exp(row)) for n, row in enumerate(logs)})
        found = changes(*runs, RUN_TO_RUN["engine"])
        alarms += any(change.verdict is not Verdict.SAME for change in found)
    assert alarms <= 8


@pytest.mark.parametrize("freedom", [4, 7, 20, 1e6])
def test_student_s_quantiles_are_within_a_tenth(freedom):
    for share in (0.975, 0.999, 0.9999):
        assert student(share, freedom) == pytest.approx(scipy.stats.t.ppf(share, freedom), rel=0.1)


def test_loads_on_a_server_are_compared_by_their_cameras():
    old = serve_report((1, 4))
    for times, slower in ((4.0, ["cameras: 4 x 10 Hz: latency"]), (1.2, [])):
        new = copy.deepcopy(old)
        samples = new["steps"][1]["samples"]
        samples["latency_ms"] = [value and value * times for value in samples["latency_ms"]]
        assert compared(old, new, "old", "new")["slower"] == slower


def test_frames_without_a_result_are_misses_however_fast_the_others_are():
    old = serve_report((4,))
    new = copy.deepcopy(old)
    latencies = new["steps"][0]["samples"]["latency_ms"]
    latencies[::3] = [None] * len(latencies[::3])
    said = compared(old, new, "old", "new")
    assert said["slower"] == ["cameras: 4 x 10 Hz: misses"]
    assert not compared(new, old, "old", "new")["slower"]


def test_what_one_report_does_not_have_is_unclear(report):
    alone = engine_report({"ort": 1.0})
    assert compared(report, alone, "old", "new.json")["unclear"] == ["reference: not in new.json"]
    assert compared(alone, report, "old", "new.json")["unclear"] == []


def test_what_there_is_one_value_of_stands_side_by_side():
    old = with_everything(engine_report({"ort": 1.0, "reference": 3.0}))
    new = copy.deepcopy(old)
    new["contenders"][0]["alone"]["rss_peak_bytes"] *= 2
    rows = {(each["of"], each["what"]): each for each in compared(old, new, "old", "new")["beside"]}
    peak = rows["ort", "rss_peak_bytes"]
    assert peak["new"] == 2 * peak["old"]
    assert ("ort", "iou_mean") in rows
    loads = compared(serve_report((1, 4)), serve_report((1, 4)), "old", "new")["beside"]
    assert {"ramp", "cameras: 4 x 10 Hz"} <= {each["of"] for each in loads}


def test_what_else_is_different_is_told(report):
    new = copy.deepcopy(report)
    new["machine"] = {**report["machine"], "cpu": "another", "packages": {"numpy": "3.0"}}
    new["contenders"][0]["model_sha256"] = "f" * 64
    lines = differences(report, new)
    assert any("machine.cpu: another, before Intel" in line for line in lines)
    assert any(line.startswith("onnxruntime: nothing, before ") for line in lines)
    assert any(line.startswith("ort.model_sha256: ffff") for line in lines)
    assert differences(report, copy.deepcopy(report)) == []


def test_reports_without_anything_in_common_are_refused(report):
    with pytest.raises(InputError, match=r"found no contender or load of old\.json"):
        compared(report, engine_report({"tensorrt": 1.0}), "old.json", "new.json")
    with pytest.raises(InputError, match="found a report of `serve`, expected one of `engine`"):
        compared(report, serve_report((1,)), "old.json", "new.json")


def test_the_command_says_what_is_slower_and_fails_where_that_is_wanted(report, tmp_path):
    old, new = written(tmp_path, "old.json", report), written(tmp_path, "new.json", slowed(report, "llm", 1.3))
    run = CliRunner().invoke
    said = run(app, ["compare", old, new])
    assert said.exit_code == 0
    assert "slower: ort: llm" in said.stdout
    assert run(app, ["compare", old, new, "--fail-on-slower"]).exit_code == 1
    assert run(app, ["compare", new, old, "--fail-on-slower"]).exit_code == 0
    few = written(tmp_path, "few.json", engine_report({"ort": 1.0}, frames=20))
    assert run(app, ["compare", few, few, "--fail-on-slower"]).exit_code == 1  # nothing could be told
    out = tmp_path / "said.json"
    as_json = json.loads(run(app, ["compare", old, new, "--json", "--out", str(out)]).stdout)
    assert as_json["slower"][0] == "ort: llm"
    assert json.loads(out.read_text()) == as_json
