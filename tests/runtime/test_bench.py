"""agvas-bench engine: what is counted, who takes turns, what the report holds. No test asks how fast anything is."""

import json
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agvas_runtime import console
from agvas_runtime.bench import engines, table
from agvas_runtime.bench.cli import app
from agvas_runtime.bench.engines import Options, bench_engines
from agvas_runtime.bench.figures import BOUT, PERCENTILES
from agvas_runtime.bench.frames import bench_frames, generated_frame
from agvas_runtime.bench.latency import WHOLE_CALL, race, samples, stages
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.bench.quality import compare_masks
from agvas_runtime.bench.throughput import measure_throughput
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.control_group import container_limits
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import decode_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.verdict import Verdict
from tests.runtime.diary import BatchDiary, Diary, frames_of, tracks_of
from tests.runtime.red_source import save

STAGES = ("decode", "preprocess", "encoders", "spam", "llm", "text", "decoder", "postprocess", "total")


def test_contenders_take_turns_and_whoever_begins_is_drawn():
    turns = []
    machine = race(tracks_of("ab", turns), frames_of(b"0", b"1"), 1, 20)
    assert turns[:6] == [("a", b"0"), ("b", b"0")] * 3  # first calls, the warm-up, the bout's first that is not kept
    pairs = [turns[place : place + 2] for place in range(6, len(turns), 2)]
    assert [sorted(pair) for pair in pairs] == [
        [("a", frame), ("b", frame)] for _, frame in zip(range(20), cycle([b"0", b"1"]), strict=False)
    ]
    assert {pair[0] for pair in pairs} == {("a", b"0"), ("b", b"0"), ("a", b"1"), ("b", b"1")}
    assert {name: len(values) for name, values in machine.items()} == {
        "bouts_began_s": 1,
        "yardstick_ms": 20,
        "elsewhere_ms": 20,
    }
    assert min(machine["yardstick_ms"]) > 0


def test_first_calls_and_warm_up_are_not_counted():
    (track,) = tracks_of("a", [])
    race([track], frames_of(b"0"), 5, 7)
    assert len(track.calls) == 7
    assert stages(track.calls)["decode"] == {**dict.fromkeys(PERCENTILES, 1.0), "mean": 1.0}


def test_bouts_are_spread_and_their_first_calls_are_not_counted():
    turns = []
    tracks = tracks_of("ab", turns)
    began = time.perf_counter()
    machine = race(tracks, frames_of(b"0"), 0, 2 * BOUT, spread_s=1.0)
    assert time.perf_counter() - began >= 0.5  # the second of two bouts begins after half of it
    assert [len(track.calls) for track in tracks] == [2 * BOUT] * 2
    assert len(turns) == 2 * (1 + 2 * (1 + BOUT))
    first, second = machine["bouts_began_s"]
    assert second - first >= 0.5 - 0.01  # by the wall clock, in whole milliseconds; the pause is by another clock
    race(tracks, frames_of(b"0"), 0, BOUT, spread_s=1e9)  # one bout is spread over nothing


def test_samples_hold_every_turn():
    (track,) = tracks_of("a", [])
    track.segmenter.text_ms = 1.23456
    race([track], frames_of(b"0", b"x"), 0, 3)
    found = samples(track.calls)
    assert found["answer_kind"] == ["rejected", "other", "rejected"]
    assert found["one_pass"] == [True, False, True]
    assert found["frame_kind"] == [None] * 3
    assert found["times_ms"]["text"] == [0.0, 1.2346, 0.0]
    assert len(found["times_ms"][WHOLE_CALL]) == 3


def test_a_stage_that_a_call_had_not_is_null_and_not_counted():
    (track,) = tracks_of("a", [])
    race([track], frames_of(b"0"), 0, 2)
    del track.calls[0].times_ms["llm"]
    assert samples(track.calls)["times_ms"]["llm"] == [None, 1.0]
    assert stages(track.calls)["llm"]["min"] == 1.0


def test_every_call_asks_the_request_and_the_report_says_which(monkeypatch):
    monkeypatch.setattr("agvas_runtime.bench.contenders.open_segmenter", lambda *_: Diary())
    request = Request(Mode.CONVERSATION, "What is it?")
    contenders = [track.contender for track in tracks_of("a", [])]
    monkeypatch.setattr("agvas_runtime.bench.engines.bench_frames", lambda _: frames_of(b"0", b"x"))
    (found,) = bench_engines(contenders, Options(frames=5, alone=False, request=request))["contenders"]
    assert (found["mode"], found["instruction"]) == ("conversation", "What is it?")
    assert found["outcomes"] == {"rejected": 3, "other": 2}
    (single,) = found["throughput"]  # the race itself
    assert (single["batch"], single["frames_per_s"]) == (1, found["frames_per_s"])
    assert single["ms_per_frame"] == pytest.approx(found["stages_ms"][WHOLE_CALL]["mean"])


def test_masks_are_compared_with_the_reference_wherever_it_stands():
    tracks = tracks_of(["ort", "reference", "other"], [])
    tracks[0].segmenter.without, tracks[2].segmenter.verdict = "b", Verdict.REJECT
    first, own, last = compare_masks(tracks, frames_of(b"0ab", b"0abcd", b"0"))  # IoU 1/2, 3/4, both empty
    assert first == {
        "against": "reference:embedded",
        "frames": 3,
        "iou_mean": pytest.approx(0.75),
        "iou_min": 0.5,
        "same_verdicts": 3,
    }
    assert own is None
    assert (last["iou_mean"], last["same_verdicts"]) == (1.0, 0)


def test_without_the_reference_masks_are_compared_with_the_first_contender_s():
    turns = []
    assert compare_masks(tracks_of("ab", turns), frames_of(b"0"))[1]["against"] == "a:embedded"
    del turns[:]
    assert compare_masks(tracks_of("a", turns), frames_of(b"0")) == [None]
    assert turns == []


def test_batches_are_segmented_in_turns_by_those_that_can():
    turns = []
    (torch,) = tracks_of("t", turns)
    tracks = [torch, *tracks_of("ab", turns, BatchDiary)]
    frames = frames_of(b"0", b"1", b"2")
    race(tracks, frames, 0, 4)
    tracks[2].segmenter.most = 2
    del turns[:]
    found = measure_throughput(tracks, frames, 4, (1, 2, 4))
    assert [[each["batch"] for each in one] for one in found] == [[1], [1, 2, 4], [1, 2]]
    assert found[0][0]["ms_per_frame"] == torch.ms_per_frame
    pairs = [("a", b"0", b"1"), ("b", b"0", b"1"), ("b", b"2", b"0"), ("a", b"2", b"0")]
    assert turns == [*pairs[:2], *pairs, *[("a", b"0", b"1", b"2", b"0")] * 2]  # the first of each is not counted
    for each in (each for one in found for each in one):
        assert each["frames_per_s"] == pytest.approx(1e3 / each["ms_per_frame"])


def test_generated_frames_are_the_same_every_time():
    assert generated_frame(3) == generated_frame(3)
    assert generated_frame(3) != generated_frame(4)
    assert decode_image(generated_frame(0)).shape == (256, 256, 3)
    assert [frame.kind for frame in bench_frames([])] == ["normal", "defective"] * 4


def test_frames_of_files_and_folders_are_their_bytes(tmp_path):
    first, second = generated_frame(0), generated_frame(1)
    for name, data in (("b.jpg", second), ("a.jpg", first)):
        (tmp_path / name).write_bytes(data)
    frames = bench_frames([tmp_path, tmp_path / "b.jpg"])
    assert frames == frames_of(first, second, second)


def test_a_file_that_cannot_be_decoded_is_named_before_the_race(tmp_path):
    (tmp_path / "a.jpg").write_bytes(generated_frame(0))
    (tmp_path / "b.jpg").write_bytes(generated_frame(1)[:-500])
    with pytest.raises(InputError, match=r"b\.jpg: truncated image"):
        bench_frames([tmp_path])


def test_a_folder_good_tells_which_frames_are_normal(tmp_path):
    for folder in ("good", "crack"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.jpg").write_bytes(generated_frame(0))
    assert [frame.kind for frame in bench_frames([tmp_path / "good", tmp_path / "crack"])] == ["normal", "defective"]
    assert [frame.kind for frame in bench_frames([tmp_path / "crack"])] == [None]


def test_the_machine_is_named():
    machine = describe_machine()
    assert machine["cpu"]
    assert machine["memory_bytes"] > 0
    assert machine["packages"]["numpy"] == np.__version__
    limits = container_limits()
    assert (machine["cores_limit"], machine["memory_limit_bytes"]) == (limits.cores, limits.memory_bytes)
    assert (machine["gpus"] == []) == (machine["gpu_driver"] is None)


def test_outside_git_there_is_no_commit(tmp_path):
    assert git_commit(tmp_path) is None


def test_a_repository_around_a_folder_that_it_ignores_tells_no_commit(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    ignored = tmp_path / ".venv" / "agvas_runtime"
    ignored.mkdir(parents=True)
    (ignored / "code.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert len(git_commit(tmp_path)) == 12
    assert git_commit(ignored) is None


def command(capfd, *args):
    with pytest.raises(SystemExit) as left:
        console.run(app, ["engine", *(str(arg) for arg in args)])
    out, err = capfd.readouterr()
    return left.value.code, out, err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of one normal and one defective image."""
    root = tmp_path_factory.mktemp("bench") / "parts"
    truth = np.zeros((64, 64), bool)
    truth[20:40, 20:40] = True
    save(root, "0", np.full((64, 64), 90, np.uint8))
    save(root, "1", np.where(truth, 255, 90).astype(np.uint8), truth=truth)
    return root


@pytest.fixture(scope="module")
def measured(data):
    """The report of two contenders, everything measured: what was printed, and what was written."""
    out = data.with_name("report.json")
    options = ("--frames", 6, "--warmup", 1, "--threads", 1, "--batch", "1,2", "--data", data, "--json", "--out", out)
    command = [
        Path(sys.executable).with_name("agvas-bench"),
        "engine",
        default_bundle_path(),
        "--engine",
        "ort,ort-plain",
    ]
    done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads(out.read_text())


def test_the_report_of_two_contenders(measured):
    report, written = measured
    assert report == written
    assert (report["schema"], report["kind"]) == (3, "engine")
    assert report["began"].endswith("Z")
    assert report["trie"]["groups"]["hit"]["frames"] == 6
    assert len(report["yardstick_ms"]) == len(report["elsewhere_ms"]) == 6
    bundle = default_bundle_path()
    assert [each["name"] for each in report["contenders"]] == [f"ort:{bundle}", f"ort-plain:{bundle}"]
    for each in report["contenders"]:
        assert set(each["stages_ms"]) == {*STAGES, WHOLE_CALL}
        assert sum(each["outcomes"].values()) == 6
        assert len(each["model_sha256"]) == 64
        assert [found["batch"] for found in each["throughput"]] == [1, 2]
        assert len(each["samples"]["times_ms"][WHOLE_CALL]) == 6
        assert (each["data"]["dataset"], each["data"]["images"]) == ("parts", 2)
        assert 0 <= each["data"]["ap"] <= 100
    quality = report["contenders"][1]["quality"]
    assert (quality["against"], quality["frames"]) == (f"ort:{bundle}", 6)
    assert 0.9 < quality["iou_min"] <= quality["iou_mean"] <= 1


def test_start_and_memory_are_measured_in_a_process_for_each(measured):
    for each in measured[0]["contenders"]:
        alone = each["alone"]
        assert alone["load_ms"] > 0
        assert alone["first_call_ms"] > 0
        assert alone["build_ms"] is None
        assert 0 < alone["rss_before_bytes"] < alone["rss_loaded_bytes"] < alone["rss_peak_bytes"]
        assert alone["device"] is None  # an engine of the CPU


@pytest.mark.parametrize(
    ("part", "error", "code"), [("data", EngineError("out of memory"), 1), ("alone", KeyboardInterrupt(), 130)]
)
def test_what_fails_behind_the_race_costs_its_own_figures_only(capfd, data, tmp_path, monkeypatch, part, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(engines, {"data": "data_figures", "alone": "measure_alone"}[part], fail)
    options = ("--no-alone", "--data", data) if part == "data" else ()
    sizes = ("--frames", 3, "--warmup", 0, "--threads", 1, "--batch", 1)
    left, out, err = command(capfd, *sizes, *options, "--json", "--out", tmp_path / "report.json")
    assert left == code
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(out)
    (found,) = report["contenders"]
    assert (found["frames"], found[part]) == (3, None)
    assert err.startswith(f"ort:embedded: {part}: not measured: {str(error) or 'interrupted'}\n")


def test_the_tables_fit_100_columns(measured, monkeypatch, capsys):
    report = json.loads(json.dumps(measured[0]))
    for number, each in enumerate(report["contenders"]):
        each["name"] = f"[red]ort:bundles/a-long-name-{number}[/bold]"
    report["base"] = report["contenders"][0]["name"]
    report["contenders"][0]["alone"] |= {
        "build_ms": 61000.0,
        "device": {"name": "H", "counts": "gpu", "before_bytes": 2**20, "loaded_bytes": 2**21, "peak_bytes": 2**22},
        "energy": {"source": "nvml", "joules_per_frame": 0.1234, "watts_mean": 45.2},
    }
    report["contenders"][0]["groups"]["all"]["times_of_base"]["call"] = {"median": 1.234, "low": 1.2, "high": 1.261}
    monkeypatch.setattr(console, "output", lambda: Console(width=100))
    table.print_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for wanted in (
        "x1.23 [1.20, 1.26]",
        "[red]ort:bundles/a-long-name-0[/bold]: ms per frame",
        "times as long as [red]ort:bundles/a-long-name-0[/bold] took",
        "[red]ort:bundles/a-long-name-1[/bold]",
        "its engines built in 61.0 s",
        "H: 2 MiB loaded, 4 MiB peak of everything on it, 1 MiB before",
        "0.123 J a frame, 45 W (nvml)",
        "p99.9 of 6 frames is nearly their maximum",
        "parts, 2 images: AP",
        "6 of 6 verdicts the same",
        "frames/s by batch size",
        "the trie's rows take",
    ):
        assert wanted in text, text


def test_what_was_not_measured_is_not_in_the_tables(measured, capsys):
    report = json.loads(json.dumps(measured[0]))
    report["trie"] = None
    for each in report["contenders"]:
        each |= {"alone": None, "quality": None, "data": None, "throughput": each["throughput"][:1]}
    table.print_report(report)
    text = capsys.readouterr().out
    absent = ("alone", "masks", "AP", "by batch size", "the trie's rows", "None")
    assert [word for word in absent if word in text] == []


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["nowhere"], "error: nowhere: no such folder; expected a bundle or checkpoint"),
        (["--engine", "ort,otr"], "error: unknown engine 'otr'"),
        (["--engine", ","], "error: --engine names no engine"),
        (["--engine", "reference-plain"], "error: engine 'reference' does not run bundles"),
        (["--mode", "general"], "error: mode general needs class_name"),
        (["--image", "nowhere"], "error: nowhere: no such file or folder"),
        (["--contender", "ort", "--contender", "ort"], "error: two contenders are called 'ort:embedded'"),
        (["--contender", "ort", "x"], "error: can't use --contender beside targets or --engine"),
        (["--frames", "0"], "error: Invalid value for '--frames'"),
        (["--frames", "99999999999999999999"], "error: Invalid value for '--frames'"),
        (["--warmup", "99999999999999999999"], "error: Invalid value for '--warmup'"),
        (["--out", "."], "error: .: found a folder, expected a file to write"),
        (["--out", "/proc/none/x.json"], "error: /proc/none: cannot write into this folder: "),
        (["--out", "x" * 300], "error: " + "x" * 300 + ": cannot write: File name too long"),
        (["--batch", "1,0"], "error: --batch: found '1,0', expected whole numbers from 1 to 256"),
        (["--batch", ""], "error: --batch: found '', expected whole numbers"),
        (["--data", "nowhere"], "error: nowhere: no such data set"),
        (["--limit", "3"], "error: --limit needs --data"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capfd, args, line):
    code, out, err = command(capfd, *args)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_help_shows_examples(capfd):
    code, out, _ = command(capfd, "--help")
    assert code == 0
    assert "agvas-bench engine bundles/fp32 bundles/int8" in out
