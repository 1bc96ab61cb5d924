"""agvas-bench compare: what it finds in recorded runs, what it does not, and what it says of misfits."""

import copy
import gzip
import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agvas_runtime.bench.cli import app
from agvas_runtime.bench.cli_compare import compared as compared_as_they_are
from agvas_runtime.bench.compare.by_turns import pairs_of
from agvas_runtime.bench.compare.change import FEWEST, FEWEST_GRAPHS, Verdict, _together
from agvas_runtime.bench.compare.circumstances import differences
from agvas_runtime.bench.compare.series import BLOCK, blocks_of, quiet_turns
from agvas_runtime.bench.figures import BOUT
from agvas_runtime.errors import InputError

from .bench_reports import engine_report, serve_report, with_everything


def written(folder, name, report):
    path = folder / name
    path.write_text(json.dumps(report))
    return str(path)


def test_graphs_without_a_quiet_turn_did_nothing_together():
    assert _together([math.nan] * FEWEST_GRAPHS) == _together([2.0] * (FEWEST_GRAPHS - 1)) == 1.0
    assert _together([2.0] * FEWEST_GRAPHS) == pytest.approx(2.0)


def slowed(report, stage, times):
    """The report with a stage of the first contender that takes so many times as long."""
    changed = copy.deepcopy(report)
    values = changed["contenders"][0]["samples"]["times_ms"]
    for turn, value in enumerate(values[stage]):
        values["call"][turn] += value * (times - 1)
        values[stage][turn] = value * times
    return changed


def compared(old, new, *names):
    """As if the new report were from another day."""
    if "bouts_began_s" not in new:
        return compared_as_they_are(old, new, *names)
    return compared_as_they_are(old, {**new, "bouts_began_s": [at + 86400 for at in new["bouts_began_s"]]}, *names)


def verdicts(old, new):
    found = compared(old, new, "old", "new")["changes"]
    return {each["what"]: Verdict(each["verdict"]) for each in found if each["of"] == "ort"}


@pytest.fixture(scope="module")
def rounds():
    """Runs as tools/compare_proof.py recorded them, three a round."""
    return json.loads(gzip.decompress((Path(__file__).parent / "compared_runs.json.gz").read_bytes()))["rounds"]


def test_of_20_recorded_slow_downs_of_a_fifth_19_are_found(rounds):
    said = [compared_as_they_are(each["base"], each["slow"], "a", "b") for each in rounds]
    assert len(said) == 20
    assert sum(f"ort: {each['stage']}" in found["slower"] for each, found in zip(rounds, said, strict=True)) >= 19


def test_of_20_recorded_pairs_of_unchanged_runs_one_at_most_raises_an_alarm(rounds):
    said = [compared_as_they_are(each["base"], each["again"], "a", "b") for each in rounds]
    assert sum(bool(each["slower"] or each["faster"] or each["unclear"]) for each in said) <= 1


@pytest.fixture(scope="module")
def report():
    return engine_report({"ort": 1.0, "reference": 3.0})


def test_a_stage_that_is_slower_is_named_and_those_beside_it_are_not(report):
    found = verdicts(report, slowed(report, "llm", 1.3))
    assert found["llm"] is Verdict.SLOWER
    assert {found[stage] for stage in ("decode", "encoders", "decoder", "text")} == {Verdict.SAME}
    assert verdicts(slowed(report, "llm", 1.3), report)["llm"] is Verdict.FASTER


def test_a_change_that_noise_between_runs_would_explain_is_none(report):
    assert verdicts(report, slowed(report, "encoders", 1.05))["encoders"] is Verdict.SAME


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


def test_a_few_odd_frames_are_no_change(report):
    odd = copy.deepcopy(report)
    values = odd["contenders"][0]["samples"]["times_ms"]["text"]
    values[::25] = [value * 0.7 for value in values[::25]]  # the fastest fiftieth, but no tenth
    assert verdicts(report, odd)["text"] is verdicts(odd, report)["text"] is Verdict.SAME


def test_few_frames_tell_nothing():
    few, many = (engine_report({"ort": 1.0}, frames=frames) for frames in (FEWEST - 1, FEWEST))
    assert set(verdicts(few, slowed(few, "llm", 2.0)).values()) == {Verdict.UNCLEAR}
    assert verdicts(many, slowed(many, "llm", 2.0))["llm"] is Verdict.SLOWER


@pytest.mark.parametrize(
    ("count", "lengths"), [(0, []), (1, [1]), (20, [20]), (39, [39]), (40, [20, 20]), (59, [20, 39])]
)
def test_turns_are_taken_in_blocks_and_what_is_left_over_belongs_to_the_last(count, lengths):
    assert [block.stop - block.start for block in blocks_of(count)] == lengths
    assert [turn for block in blocks_of(count) for turn in range(count)[block]] == list(range(count))


def test_a_machine_that_is_slower_half_of_the_time_changes_nothing(report):
    moody = copy.deepcopy(report)
    for values in moody["contenders"][0]["samples"]["times_ms"].values():
        values[: len(values) // 2] = [value * 1.5 for value in values[: len(values) // 2]]
    assert set(verdicts(report, moody).values()) == {Verdict.SAME}
    assert verdicts(report, slowed(moody, "llm", 1.3))["llm"] is Verdict.SLOWER


def test_what_all_graphs_do_together_is_unclear_and_one_that_does_more_is_found(report):
    together = report
    for graph in ("encoders", "spam", "llm", "decoder"):
        together = slowed(together, graph, 1.5)
    said = compared(report, together, "old", "new")
    assert said["slower"] == []
    assert said["unclear"] == ["ort: call", "ort: all graphs, x1.50"]
    assert compared(report, slowed(together, "llm", 1.3), "old", "new")["slower"] == ["ort: llm"]
    assert compared(report, slowed(together, "decode", 1.3), "old", "new")["slower"] == ["ort: decode"]


def test_runs_that_took_turns_are_compared_bout_by_bout_whatever_the_machine_s_mood(report):
    def moody(one):
        """Slow for three bouts in seven, which no percentile of the whole run survives."""
        values = copy.deepcopy(one)
        for stage in values["contenders"][0]["samples"]["times_ms"].values():
            for turn in range(len(stage)):
                stage[turn] *= 1.6 if turn // BOUT % 7 < 3 else 1
        return values

    said = compared_as_they_are(moody(report), moody(slowed(report, "llm", 1.2)), "old", "new")
    assert said["pairs"] == len(report["bouts_began_s"])
    assert (said["slower"], said["faster"], said["unclear"]) == (["ort: llm"], [], [])


def test_of_bouts_that_are_compared_in_pairs_no_turns_are_left_out(report):
    busy = {**report, "elsewhere_ms": [1e6] * len(report["elsewhere_ms"])}
    assert compared_as_they_are(busy, busy, "old", "new")["left_out"] == {"old": 0.0, "new": 0.0}
    assert compared(busy, busy, "old", "new")["left_out"] == {"old": 1.0, "new": 1.0}


def test_bouts_of_other_times_are_no_pairs(report):
    assert pairs_of(report, {**report, "bouts_began_s": [at + 24 for at in report["bouts_began_s"]]}) == []
    assert pairs_of(serve_report((1,)), serve_report((1,))) == []


def test_a_bout_is_in_one_pair_at_most(report):
    began = report["bouts_began_s"]  # one a second
    assert pairs_of(report, {**report, "bouts_began_s": [began[3], *(at + 100 for at in began[1:])]}) == []
    few = {**report, "bouts_began_s": [at + 3.2 for at in began[::4]]}
    assert pairs_of(report, few)[:4] == [(3, 0), (7, 1), (11, 2), (15, 3)]
    assert pairs_of(few, report) == [(second, first) for first, second in pairs_of(report, few)]


def test_bouts_are_paired_with_their_neighbours_whoever_began_first():
    ours = [2.0 * at for at in range(12)]
    for head_start in (1.0, 4.7, 9.0):
        theirs = [at + head_start for at in ours]
        pairs = pairs_of({"bouts_began_s": ours}, {"bouts_began_s": theirs})
        assert len(pairs) >= 7
        assert all(abs(ours[i] - theirs[j]) <= 1.3 for i, j in pairs)


def test_loads_on_a_server_are_compared_by_their_cameras():
    old = serve_report((1, 4))
    for times, slower in ((4.0, ["cameras: 4 x 10 Hz in 100 ms: latency"]), (1.2, [])):
        new = copy.deepcopy(old)
        samples = new["steps"][1]["samples"]
        samples["latency_ms"] = [value and value * times for value in samples["latency_ms"]]
        assert compared(old, new, "old", "new")["slower"] == slower


def test_frames_without_a_result_are_misses_however_fast_the_others_are():
    old = serve_report((4,))
    new = copy.deepcopy(old)
    new["steps"][0]["miss_share"] += 0.3
    said = compared(old, new, "old", "new")
    assert said["slower"] == ["cameras: 4 x 10 Hz in 100 ms: misses"]
    assert not compared(new, old, "old", "new")["slower"]


@pytest.mark.parametrize(("sent", "slower"), [(48, False), (1000, True)])
def test_a_few_misses_more_among_few_frames_are_chance(sent, slower):
    old = serve_report((4,))
    new = copy.deepcopy(old)
    for report, share in ((old, 2 / 48), (new, 7 / 48)):
        report["steps"][0].update(miss_share=share, sent=sent)
    assert bool(compared(old, new, "old", "new")["slower"]) is slower


def test_a_server_that_does_not_tell_the_engine_s_time_is_compared_by_its_latency(tmp_path):
    report = serve_report((4,))
    for name in ("engine_ms", "overhead_ms"):
        report["steps"][0]["samples"][name] = [None] * report["steps"][0]["sent"]
    said = compared(report, report, "old", "new")
    assert [each["what"] for each in said["changes"]] == ["latency"]
    path = written(tmp_path, "report.json", report)
    assert CliRunner().invoke(app, ["compare", path, path, "--fail-on-slower"]).exit_code == 0
    told = compared(serve_report((4,)), report, "old", "new")["unclear"]
    assert [line.rpartition(": ")[2] for line in told] == ["overhead", "engine"]  # the new one alone does not


def test_of_two_ramps_that_took_other_steps_what_they_carry_is_judged():
    old, new = serve_report((1, 2, 4, 3)), serve_report((1, 2, 4, 8))
    for report, cameras, broken in ((old, 3, 4), (new, 4, 8)):
        report["carried"] = {"cameras": cameras, "first_broken": broken}
    there, back = compared(old, new, "old", "new"), compared(new, old, "new", "old")
    assert (there["slower"], there["unclear"], there["faster"]) == ([], [], ["ramp: cameras carried"])
    assert (back["slower"], back["unclear"]) == (["ramp: cameras carried"], [])
    old["carried"]["first_broken"] = None
    assert compared(new, old, "new", "old")["unclear"] == ["ramp: cameras carried"]  # more were not tried
    old["carried"] = None
    assert [line for line in compared(new, old, "new", "old")["unclear"] if "8 x 10 Hz" in line]


def test_loads_of_other_deadlines_are_other_loads():
    old = serve_report((1, 4))
    new = copy.deepcopy(old)
    for camera in new["steps"][1]["per_camera"]:
        camera["deadline_ms"] = 33.0
    said = compared({**old, "carried": None}, {**new, "carried": None}, "old", "new")
    assert {each["of"] for each in said["changes"]} == {"cameras: 1 x 10 Hz in 100 ms"}
    assert said["unclear"] == ["cameras: 4 x 10 Hz in 100 ms: not in new"]


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
    assert {"ramp", "cameras: 4 x 10 Hz in 100 ms"} <= {each["of"] for each in loads}


def test_what_else_is_different_is_told(report):
    new = copy.deepcopy(report)
    new["machine"] = {**report["machine"], "cpu": "another", "packages": {"numpy": "3.0"}}
    new["contenders"][0]["model_sha256"] = "f" * 64
    lines = differences(report, new)
    assert any("machine.cpu: another, before Intel" in line for line in lines)
    assert any(line.startswith("onnxruntime: nothing, before ") for line in lines)
    assert any(line.startswith("ort.model_sha256: ffff") for line in lines)
    assert differences(report, copy.deepcopy(report)) == []
    limited = {"gpus": ["NVIDIA L4"], "gpu_driver": "550.1", "cores_limit": 4.0, "memory_limit_bytes": 1 << 30}
    lines = differences(report, {**report, "machine": {**report["machine"], **limited}})
    assert [line.partition(":")[0] for line in lines] == [
        "machine.cores_limit",
        "machine.memory_limit_bytes",
        "machine.gpus",
        "machine.gpu_driver",
    ]
    served = serve_report((1,))
    other = {**served, "target": {**served["target"], "model_sha256": "f" * 64}}
    other["load"] = {**served["load"], "policy": "block"}
    assert [line.partition(":")[0] for line in differences(served, other)] == ["load", "target.model_sha256"]


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
