"""agvas-bench engine: what is counted, who takes turns, what the report holds. No test asks how fast anything is."""

import json

import numpy as np
import pytest

from agvas_runtime import console
from agvas_runtime.bench.cli import app
from agvas_runtime.bench.frames import Frame, bench_frames, generated_frame
from agvas_runtime.bench.groups import LANGUAGE, base_of, in_groups, trie_cost
from agvas_runtime.bench.latency import WHOLE_CALL, Contender, Track, race
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.bench.memory import measure_memory
from agvas_runtime.bench.plot import draw_plot
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import decode_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.result import AnswerKind, Result, Scores, Verdict

STAGES = ("decode", "preprocess", "encoders", "spam", "llm", "text", "decoder", "postprocess", "total")


class Diary:
    """An engine that writes down its turns; frames that begin with "x" are answered outside the templates."""

    weights_note = ""

    def __init__(self, name, turns, llm_ms=1.0, text_ms=0.0):
        self.name, self.turns, self.llm_ms, self.text_ms = name, turns, llm_ms, text_ms

    def segment(self, image, instruction=None, recipe=None, **asked):
        self.turns.append((self.name, image))
        empty = np.zeros((1, 1), np.float32)
        scores = Scores(0.0, 1.0, 0.0, 0.0, 1.0)
        left = image.startswith(b"x")
        timings = {"decode": 1.0, "llm": self.llm_ms, "text": self.text_ms * left, "total": 2.0}
        kind = AnswerKind.OTHER if left else AnswerKind.REJECTED
        text = instruction or asked["mode"].value
        return Result(Verdict.PASS, "", "", kind, empty, empty > 1, (), scores, timings, text, one_pass=not left)


def tracks_of(names, turns):
    return [Track(Contender.of(name, None), Diary(name, turns), 1.0) for name in names]


def frames_of(*data):
    return [Frame(each) for each in data]


def test_contenders_take_turns_and_whoever_begins_changes():
    turns = []
    race(tracks_of("ab", turns), frames_of(b"0", b"1"), 1, range(3))
    assert turns[:4] == [("a", b"0"), ("b", b"0"), ("a", b"0"), ("b", b"0")]  # first calls, then the warm-up
    assert turns[4:] == [("a", b"0"), ("b", b"0"), ("b", b"1"), ("a", b"1"), ("a", b"0"), ("b", b"0")]


def test_first_calls_and_warm_up_are_not_counted():
    (track,) = tracks_of("a", [])
    race([track], frames_of(b"0"), 5, range(7))
    report = track.report()
    assert report["frames"] == 7
    assert report["first_call_ms"] > 0
    assert report["stages_ms"]["decode"] == {"p50": 1.0, "p90": 1.0, "p99": 1.0, "mean": 1.0}


def test_answers_outside_the_templates_are_counted_apart():
    (track,) = tracks_of("a", [])
    race([track], frames_of(b"0", b"x"), 0, range(5))
    assert track.report()["outcomes"] == {"rejected": 3, "other": 2}
    assert len(track.calls) == 5


def test_every_call_asks_the_request_and_the_report_says_which():
    track = Track(Contender.of("a", None), Diary("a", []), 1.0, Request(Mode.CONVERSATION, "What is it?"))
    race([track], frames_of(b"0"), 0, range(2))
    report = track.report()
    assert (report["mode"], report["instruction"]) == ("conversation", "What is it?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ort", ("ort:embedded", "ort", None)),
        ("ort:a/b", ("ort:a/b", "ort", "a/b")),
        ("fast=ort:a/b", ("fast", "ort", "a/b")),
        ("slow=reference", ("slow", "reference", None)),
        ("ort:a=b", ("ort:a=b", "ort", "a=b")),
    ],
)
def test_contenders_are_read_from_the_command_line(text, expected):
    contender = Contender.parse(text)
    assert (contender.name, contender.engine, contender.path and str(contender.path)) == expected


@pytest.mark.parametrize("text", ["", "=ort", "fast=", ":path"])
def test_a_contender_without_its_parts_is_refused(text):
    with pytest.raises(InputError, match="must be"):
        Contender.parse(text)


def test_generated_frames_are_the_same_every_time():
    assert generated_frame(3) == generated_frame(3)
    assert generated_frame(3) != generated_frame(4)
    assert decode_image(generated_frame(0)).shape == (256, 256, 3)
    assert [frame.kind for frame in bench_frames([])] == ["normal", "defective"] * 4


def test_frames_of_files_and_folders_are_their_bytes(tmp_path):
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    frames = bench_frames([tmp_path, tmp_path / "b.jpg"])
    assert frames == frames_of(b"a.jpg", b"b.jpg", b"b.jpg")


def test_a_folder_good_tells_which_frames_are_normal(tmp_path):
    for folder in ("good", "crack"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.jpg").write_bytes(b"0")
    assert [frame.kind for frame in bench_frames([tmp_path / "good", tmp_path / "crack"])] == ["normal", "defective"]
    assert [frame.kind for frame in bench_frames([tmp_path / "crack"])] == [None]


def compared():
    """Hits and misses: a single pass of 3 ms, the same graphs without it (1 ms), an engine that decodes (8 ms)."""
    engines = {"reference": Diary("r", [], 8.0), "ort": Diary("o", [], 3.0, 1.5), "ort-plain": Diary("p", [], 1.0, 1.0)}
    tracks = [Track(Contender.of(engine, None), diary, 1.0) for engine, diary in engines.items()]
    race(tracks, [Frame(b"0", "normal"), Frame(b"x", "defective"), Frame(b"1")], 0, range(6))
    return tracks


def test_frames_are_grouped_by_what_the_single_pass_made_of_them():
    reference, single, _ = compared()
    assert base_of([reference, single]) is single
    groups = in_groups(reference, single)
    counts = {"all": 6, "hit": 4, "miss": 2, "rejected": 4, "other": 2, "normal": 2, "defective": 2}
    assert {name: group["frames"] for name, group in groups.items()} == counts
    assert groups["hit"]["times_of_base"][LANGUAGE] == pytest.approx(8 / 3)
    assert groups["miss"]["times_of_base"][LANGUAGE] == pytest.approx(8 / 4.5)
    assert groups["miss"]["stages_ms"]["llm"]["p50"] == 8.0


def test_the_tries_rows_cost_what_the_same_pass_takes_longer_than_without_them():
    cost = trie_cost(compared())
    assert (cost["base"], cost["plain"]) == ("ort:embedded", "ort-plain:embedded")
    hit, miss = cost["groups"]["hit"], cost["groups"]["miss"]
    assert (hit["share_ms"], miss["share_ms"]) == (2.0, 2.0)
    assert hit["over"]["ort-plain:embedded"] == {"extra_ms": 2.0, "within_share": True}
    assert miss["over"]["ort-plain:embedded"] == {"extra_ms": 2.5, "within_share": False}
    assert miss["over"]["reference:embedded"] == {"extra_ms": -3.5, "within_share": True}


def test_without_the_same_bundle_decoding_plainly_nobody_knows_what_the_trie_costs():
    reference, single, plain = compared()
    assert trie_cost([reference, single]) is None
    assert trie_cost([reference]) is None
    plain.contender = Contender.of("ort-plain", default_bundle_path())
    assert trie_cost([single, plain]) is None


def test_the_machine_is_named():
    machine = describe_machine()
    assert machine["cpu"]
    assert machine["memory_bytes"] > 0
    assert machine["packages"]["numpy"] == np.__version__


def test_outside_git_there_is_no_commit(tmp_path):
    assert git_commit(tmp_path) is None


def command(capfd, *args):
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(arg) for arg in args])
    out, err = capfd.readouterr()
    return left.value.code, out, err


def test_the_report_of_two_contenders(capfd, tmp_path):
    out, plot = tmp_path / "report.json", tmp_path / "plot.png"
    bundle = default_bundle_path()
    code, printed, _ = command(
        capfd, "engine", "--contender", f"one=ort:{bundle}", "--contender", f"two=ort-plain:{bundle}", "--frames", 3,
        "--warmup", 1, "--threads", 1, "--json", "--out", out, "--plot", plot,
    )  # fmt: skip
    assert code == 0
    report = json.loads(printed)
    assert report == json.loads(out.read_text())
    assert [each["name"] for each in report["contenders"]] == ["one", "two"]
    assert report["trie"]["groups"]["hit"]["frames"] == 3
    for each in report["contenders"]:
        assert set(each["stages_ms"]) == {*STAGES, WHOLE_CALL}
        assert sum(each["outcomes"].values()) == 3
        assert each["load_ms"] > 0
        memory = each["memory"]
        assert 0 < memory["rss_before_bytes"] <= memory["rss_loaded_bytes"] <= memory["rss_peak_bytes"]
    assert decode_image(plot.read_bytes()).shape[1] == 900


def test_the_table_of_the_embedded_bundle(capfd):
    code, out, _ = command(capfd, "engine", "--frames", 2, "--warmup", 0, "--no-memory")
    assert code == 0
    assert [
        word for word in ("ort:embedded", "p99", "llm", "frames/s", "first call", "hit (2)") if word not in out
    ] == []


def test_memory_of_a_contender_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(EngineError, match="no such bundle folder"):
        measure_memory(Contender.of("ort", tmp_path / "nowhere"), frames_of(b""), None)


def test_memory_is_measured_with_the_same_request():
    frames = [Frame(generated_frame(0))]
    with pytest.raises(EngineError, match="class_name: found a blank text"):
        measure_memory(Contender.of("ort", None), frames, 1, Request(class_name=" "))


def test_a_plot_of_a_single_fast_contender():
    (track,) = tracks_of("a", [])
    race([track], frames_of(b"0"), 0, range(2))
    report = {"frames": 2, "machine": describe_machine(), "contenders": [track.report()]}
    assert decode_image(draw_plot(report)).ndim == 3


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--bundle", "nowhere"], "error: nowhere: no such bundle folder"),
        (["--engine", "ort,otr"], "error: unknown engine 'otr'"),
        (["--engine", ","], "error: --engine names no engine"),
        (["--engine", "reference-plain"], "error: engine 'reference' does not run bundles"),
        (["--mode", "general"], "error: mode general needs class_name"),
        (["--image", "nowhere"], "error: nowhere: no such file or folder"),
        (["--contender", "ort", "--contender", "ort"], "error: two contenders are called 'ort:embedded'"),
        (["--contender", "ort", "--bundle", "x"], "error: can't use --contender beside"),
        (["--frames", "0"], "error: Invalid value for '--frames'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capfd, args, line):
    code, out, err = command(capfd, "engine", *args)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_help_shows_examples(capfd):
    code, out, _ = command(capfd, "engine", "--help")
    assert code == 0
    assert "agvas-bench engine --bundle bundles/fp32 --bundle bundles/int8" in out
