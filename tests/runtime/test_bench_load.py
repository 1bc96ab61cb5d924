"""The load of agvas-bench serve without a server: when frames are due, and what is made of what became of them."""

import json
import math

import numpy as np
import pytest

from agvas_runtime.bench.load import pictures
from agvas_runtime.bench.load.outcome import Outcome, check_answered, describe_step, jain, outcomes_of, why_broken
from agvas_runtime.bench.load.pictures import described, load_pictures, read_size
from agvas_runtime.bench.load.ramp import search
from agvas_runtime.bench.load.schedule import Arrivals, Camera, dealt, due_times, read_cameras
from agvas_runtime.bench.load.step import Answer, CameraRun, Load, Pace, Shot, run_step
from agvas_runtime.bench.load.table import carried_line, print_report, remarks
from agvas_runtime.errors import InputError
from agvas_runtime.frames import decode_image

CONSTANT, POISSON = Arrivals.CONSTANT, Arrivals.POISSON
SMALL = (16, 24)


def load(seconds=0.5, warmup_s=0.0, wait_s=5.0, **more) -> Load:
    return Load(CONSTANT, 0, seconds, warmup_s, wait_s, **more)


def test_cameras_are_read_from_the_command_line():
    found = read_cameras(["30:33", "5:200x2", "0.5"])
    assert found == [
        Camera("camera-1", 30.0, 33.0),
        Camera("camera-2", 5.0, 200.0),
        Camera("camera-3", 5.0, 200.0),
        Camera("camera-4", 0.5, None),
    ]
    assert [(each.name, each.rate_hz) for each in dealt(found[1:], 4)] == [
        ("camera-1", 5.0), ("camera-2", 5.0), ("camera-3", 0.5), ("camera-4", 5.0),
    ]  # fmt: skip


def test_constant_arrivals_are_even_and_cameras_have_phases_of_their_own():
    first, second = due_times(read_cameras(["10x2"]), CONSTANT, 0, -0.2, 0.3)
    assert first == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2])
    assert second == pytest.approx([-0.15, -0.05, 0.05, 0.15, 0.25])
    slow, fast = due_times(read_cameras(["2", "4"]), CONSTANT, 0, 0.0, 1.0)
    assert (slow.tolist(), fast.tolist()) == ([0.0, 0.5], [0.125, 0.375, 0.625, 0.875])


def test_poisson_arrivals_have_the_mean_rate_and_exponential_gaps():
    [due] = due_times(read_cameras(["4"]), POISSON, 7, -5000.0, 5000.0)
    gaps = np.diff(due)
    assert gaps.min() > 0
    assert -5000 < due[0] < due[-1] < 5000
    assert len(due) / 10_000 == pytest.approx(4, rel=0.02)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert np.mean(gaps > 2 / 4) == pytest.approx(math.exp(-2), rel=0.05)


def test_poisson_arrivals_come_from_the_seed_and_the_cameras_place_alone():
    two, four = (due_times(read_cameras([text]), POISSON, 3, 0.0, 50.0) for text in ("2x2", "2x4"))
    for one, other in zip(two, four, strict=False):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(four[0], four[1])
    assert not np.array_equal(two[0], due_times(read_cameras(["2"]), POISSON, 4, 0.0, 50.0)[0])


def test_a_step_without_a_frame_that_counts_is_refused():
    with pytest.raises(InputError, match=r"--seconds: found 0\.5, in which no frame is due"):
        run_step(None, read_cameras(["0.1"]), load(warmup_s=1.0))


# What is made of them


def outcome(due_s, latency_ms, status=None, late_ms=0.0, reason="") -> Outcome:
    status = status or ("OK" if latency_ms is not None else "DROPPED")
    overhead_ms = None if latency_ms is None else latency_ms - 5.0
    engine_ms = None if latency_ms is None else 5.0
    return Outcome(due_s, status, latency_ms, late_ms, engine_ms, overhead_ms, reason)


def test_latency_counts_from_the_due_time_and_overhead_from_the_sending():
    shots = [
        Shot(-0.5, sent=99.5, answer=Answer(99.6, "OK")),  # of the warm-up
        Shot(1.0, sent=101.5, late_ms=2.0, answer=Answer(101.75, "OK", engine_ms=200.0)),
        Shot(1.1, sent=101.5, answer=Answer(101.75, "OK")),
        Shot(1.2, sent=101.2, answer=Answer(101.3, "DROPPED", reason="a newer frame")),
        Shot(1.3, sent=101.3),
        Shot(1.4),
    ]
    found = outcomes_of(CameraRun(Camera("c", 10.0, None), shots, begin=100.0))
    assert [each.status for each in found] == ["OK", "OK", "DROPPED", "NO_ANSWER", "NO_ANSWER"]
    assert found[0].latency_ms == pytest.approx(750)
    assert found[0].overhead_ms == pytest.approx(50)
    assert (found[0].late_ms, found[1].overhead_ms, found[1].engine_ms) == (2.0, None, None)
    assert found[1].latency_ms == pytest.approx(650)
    assert (found[2].latency_ms, found[2].reason) == (None, "a newer frame")
    assert (found[3].late_ms, found[4].late_ms) == (0.0, None)


def test_what_the_server_held_back_is_not_the_generators_lateness():
    pace = Pace()
    pace.start(-10.0)
    late, held = Shot(1.0), Shot(1.0)
    assert pace.wait(late)
    assert pace.wait(held, free=pace.begin + 9.5)
    assert late.late_ms >= 9000
    assert late.late_ms - 9000 <= held.late_ms < late.late_ms - 8000
    pace.stop()
    assert not pace.wait(Shot(1.0))


def a_step(**more):
    """Camera 1 has a deadline of 20 ms and keeps two of four, camera 2 none and keeps both, camera 3 sent nothing."""
    cameras = [Camera("camera-1", 8.0, 20.0), Camera("camera-2", 4.0, None), Camera("camera-3", 0.1, None)]
    outcomes = [
        [outcome(0.0, 10.0), outcome(0.1, 20.0), outcome(0.2, 30.0), outcome(0.3, None)],
        [outcome(0.05, 40.0), outcome(0.25, 60.0)],
        [],
    ]
    asked = load(**more)
    return describe_step(cameras, outcomes, asked), outcomes, asked


def test_the_figures_of_a_step_by_hand():
    step, _, _ = a_step()
    assert (step["cameras"], step["sent"], step["statuses"]) == (3, 6, {"OK": 5, "DROPPED": 1})
    assert (step["offered_hz"], step["answered_hz"], step["held"]) == (12.0, 10.0, None)
    assert step["latency_ms"]["p50"] == 30.0
    assert step["overhead_ms"]["mean"] == pytest.approx(27.0)
    assert (step["engine_ms"]["max"], step["sent_late_ms"]["max"]) == (5.0, 0.0)
    assert (step["misses"], step["miss_share"]) == (2, pytest.approx(2 / 6))
    assert step["fairness"]["jain"] == pytest.approx((0.5 + 1) ** 2 / (2 * (0.25 + 1)))
    assert step["fairness"]["worst_p99_ms"] == pytest.approx(59.8)
    assert step["fairness"]["best_p99_ms"] == pytest.approx(29.8)
    first, _, third = step["per_camera"]
    assert (first["name"], first["rate_hz"], first["deadline_ms"], first["sent"]) == ("camera-1", 8.0, 20.0, 4)
    assert (first["misses"], first["statuses"]) == (2, {"OK": 3, "DROPPED": 1})
    assert (third["sent"], third["statuses"], third["latency_ms"], third["misses"]) == (0, {}, None, 0)
    assert step["samples"]["due_s"] == [0.0, 0.05, 0.1, 0.2, 0.25, 0.3]
    assert step["samples"]["camera"] == [0, 1, 0, 0, 1, 0]
    assert step["samples"]["latency_ms"] == [10.0, 40.0, 20.0, 30.0, 60.0, None]
    json.dumps(step, allow_nan=False)


def test_answers_that_come_after_the_step_do_not_make_it_faster():
    step = describe_step([Camera("c", 4.0, None)], [[outcome(0.0, 10.0), outcome(0.25, 1750.0)]], load())
    assert step["answered_hz"] == pytest.approx(2 / 2.0)


def test_fairness_by_hand():
    assert jain([1.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([1.0, 0.5]) == pytest.approx(0.9)
    assert jain([0.0, 0.0]) is None


@pytest.mark.parametrize(
    ("limits", "held", "why"),
    [
        ({"target_p99_ms": 1e6}, False, "16.7% of the frames have no result"),
        ({"target_p99_ms": 50.0}, False, "it is 59.2 ms, 16.7% of the frames have no result"),
        ({"max_miss_share": 0.34}, True, ""),
        ({"max_miss_share": 0.33}, False, "33.3% of the deadlines are missed"),
    ],
)
def test_a_step_keeps_its_target_or_says_why_not(limits, held, why):
    step, _, asked = a_step(**limits)
    assert (step["held"], why_broken(step, asked)) == (held, why)


def test_one_frame_in_a_hundred_without_a_result_breaks_p99_and_one_in_a_thousand_does_not():
    for count, held in ((100, False), (1000, True)):
        frames = [outcome(index / 100, None if index == 50 else 10.0) for index in range(count)]
        step = describe_step([Camera("c", 100.0, None)], [frames], load(target_p99_ms=10.0))
        assert step["held"] is held


def test_a_late_generator_few_frames_and_failures_are_remarked():
    step, outcomes, asked = a_step(target_p99_ms=1.0)
    assert remarks(step, outcomes, asked) == [
        "warning: p99 of 6 frames is little more than their slowest: take more --seconds"
    ]
    frames = [outcome(0.0, 10.0, late_ms=1.5), outcome(0.1, None, "INVALID", reason="frame.raw: too large")]
    found = remarks(describe_step([Camera("c", 1.0, None)], [frames], load()), [frames], load())
    assert found[0] == "1 of 2 frames are INVALID: frame.raw: too large"
    assert found[1].startswith(
        "warning: this generator itself sent late, p99 1.48 ms, where the median latency is 10.00"
    )


@pytest.mark.parametrize("most", [1, 5, 32])
def test_the_search_finds_the_capacity_whatever_it_is(most):
    for capacity in range(most + 3):
        tried: list[int] = []
        found = search(lambda count: tried.append(count) or count <= capacity, most)  # noqa: B023
        assert found == (min(capacity, most), None if capacity >= most else capacity + 1)
        assert len(set(tried)) == len(tried) <= 2 * math.log2(most) + 2
        assert tried[0] == 1
        assert max(tried) <= most


def test_a_ramp_is_one_sentence():
    def report(carried, broken):
        asked = load(target_p99_ms=33.0)
        steps = [
            describe_step(dealt([Camera("", 10.0, None)], count), [[outcome(0.0, latency)]] * count, asked)
            for count, latency in ((1, 20.0), (2, 41.2))
        ]
        return carried_line({"steps": steps, "carried": {"cameras": carried, "first_broken": broken}}, asked)

    assert report(1, 2) == "carries 1 camera of 10 Hz at 33 ms p99; with 2: it is 41.2 ms"
    assert report(2, None) == "carries 2 cameras of 10 Hz at 33 ms p99; more were not tried"
    assert report(0, 1).startswith("carries not even one camera of 10 Hz at 33 ms p99; with 1: ")


def test_frames_are_raw_or_encoded_and_scaled(tmp_path, photo):
    raw, scaled, files = (load_pictures([photo], *more) for more in ((None, False), (SMALL, True), (None, True)))
    pixels = decode_image(photo.read_bytes())
    np.testing.assert_array_equal(raw[0].image, pixels)
    assert decode_image(scaled[0].data).shape == (*SMALL, 3)
    assert files[0].data == photo.read_bytes()
    generated = load_pictures([], SMALL, False)
    assert described(generated) == {"format": "RGB8", "bytes_mean": 16 * 24 * 3, "height": 16, "width": 24}
    mixed = described([*generated, *raw])
    assert (mixed["height"], mixed["width"]) == pixels.shape[:2]


@pytest.mark.parametrize("text", ["65501x1", "1x99999999999", "20000x10001"])
def test_frames_of_a_size_that_no_server_takes_are_refused(text):
    with pytest.raises(InputError, match=f"--size: found '{text}', "):
        read_size(text)
    assert read_size("20000x10000") == (20000, 10000)


def test_frames_are_bounded_together(photo, monkeypatch):
    with pytest.raises(InputError, match="found frames of 4578 MiB, expected at most 1024 MiB of all together"):
        load_pictures([], (20000, 10000), False)  # before they are made
    monkeypatch.setattr(pictures, "MOST_BYTES", 2 * photo.stat().st_size)
    assert len(load_pictures([photo] * 2, None, True)) == 2
    with pytest.raises(InputError, match="of all together: a smaller --size, or fewer --image"):
        load_pictures([photo] * 3, None, True)


def test_tables_show_names_and_statuses_as_they_are(capsys):
    step, _, asked = a_step()
    step["statuses"] = {"[/]ODD": 6}
    step["per_camera"][0]["name"] = "[red]c[/bold]"
    report = {"steps": [step], "carried": None, "machine": {"cpu": "c", "cores_usable": 1, "load_average_1min": 0.1},
              "target": {"address": "a", "protocol": "agvas", "model": "[/m]"},
              "load": {"arrivals": "constant", "frame": described(load_pictures([], SMALL, False))}}  # fmt: skip
    print_report(report, asked)
    out = capsys.readouterr().out
    assert [text for text in ("6 [/]ODD", "[red]c[/bold]", "[/m]", "of answered frames only") if text not in out] == []


def test_frames_that_are_all_wrong_are_the_users_mistake():
    wrong, right = outcome(0.0, None, "INVALID", reason="frame.raw: too small"), outcome(0.0, 1.0)
    with pytest.raises(InputError, match=r"here: none of 2 frames was answered: 2 INVALID: frame\.raw: too small"):
        check_answered("here", [[wrong], [wrong]])
    check_answered("here", [[wrong], [right]])
