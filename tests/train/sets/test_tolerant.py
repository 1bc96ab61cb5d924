"""How unreadable samples are passed over, what stands in for them, and how many are too many."""

from collections import Counter

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.adapter import Subset, Tolerant
from agvas_train.data.sets.anomaly import AnomalySet
from tests.train.sets.anomaly_miniatures import merged_set


@pytest.fixture
def damaged(tmp_path):
    """Ten images, of which 2, 3 and 9 cannot be read: two images, one mask."""
    merged_set(tmp_path, "Road", "road", normal=8)
    folder = tmp_path / "anomaly_seg/Road/road"
    for number in (2, 3):
        path = folder / f"test/good/{number:03d}.bmp"
        path.write_bytes(path.read_bytes()[:100])
    (folder / "ground_truth/anomaly/001.png").write_bytes(b"no image")
    return AnomalySet("road", tmp_path / "anomaly_seg/Road")


def take(tolerant, place, chance="0/0", use=lambda sample: sample.source.index):
    return tolerant.take(place, use, chance=chance, purpose="a test")


def ignored(_):
    """For faults that a test does not ask about."""


def test_an_unreadable_sample_gives_its_place_to_any_readable_one_and_is_told_of_once(damaged):
    reports: list[str] = []
    tolerant = Tolerant(damaged, 5, reports.append)
    readable = [0, 1, 4, 5, 6, 7, 8]
    assert [take(tolerant, place) for place in readable] == readable
    counts = Counter(take(tolerant, 3, f"0/{index}") for index in range(700))
    assert sorted(counts) == readable
    assert min(counts.values()) > 60  # 100 each, and not all to the neighbour
    assert sorted(report.split(": ")[0] for report in reports) == ["road 2", "road 3", "road 9"]
    assert all(report.split(": ")[1] == "passed over" for report in reports)
    assert "003.bmp" in reports[0]


def test_every_process_sees_the_same_stream_whatever_it_saw_before(damaged):
    whole = [take(Tolerant(damaged, 5, ignored), place, f"0/{place}") for place in range(10)]
    late = Tolerant(damaged, 5, ignored)
    assert [take(late, place, f"0/{place}") for place in reversed(range(10))][::-1] == whole


@pytest.mark.parametrize("most", [0, 1, 2])
def test_more_unreadable_samples_than_a_count_are_an_error_at_once(damaged, most):
    tolerant = Tolerant(damaged, most, ignored)
    expected = rf"^road: found {most + 1} unreadable of \d+ samples met, expected {most} at most; the last: .*"
    with pytest.raises(InputError, match=expected):
        [take(tolerant, place) for place in range(10)]
    assert len(tolerant.broken) == most + 1


def test_a_share_is_one_of_the_samples_met_judged_when_all_of_a_small_set_were(damaged):
    tolerant = Tolerant(damaged, 0.29, ignored)
    with pytest.raises(
        InputError, match=r"^road: found 3 unreadable of 10 samples met, expected a share of 0.29 at most"
    ):
        [take(tolerant, place) for place in range(10)]
    enough = Tolerant(damaged, 0.3, ignored)
    assert len([take(enough, place) for place in range(10)]) == enough.met == 10


def test_a_share_of_a_large_set_is_judged_from_a_hundred_on(tmp_path):
    merged_set(tmp_path, "Road", "road", normal=198)
    road = AnomalySet("road", tmp_path / "anomaly_seg/Road")
    for number in (0, 5):
        (tmp_path / f"anomaly_seg/Road/road/test/good/{number:03d}.bmp").write_bytes(b"BM")
    strict, lenient = Tolerant(road, 0.015, ignored), Tolerant(road, 0.02, ignored)
    with pytest.raises(
        InputError, match=r"found 2 unreadable of 100 samples met, expected a share of 0.015 at most; the "
    ):
        [take(strict, place) for place in range(200)]  # two of all 200 would have been few enough
    assert len([take(lenient, place) for place in range(200)]) == lenient.met == 200


def test_a_part_without_a_readable_sample_is_an_error_and_no_endless_search(damaged):
    part = Tolerant(Subset(damaged, [2, 3]), 9, ignored)
    with pytest.raises(InputError, match=r"^road: found no readable sample among 2, expected some$"):
        take(part, 0)


def test_sound_samples_that_are_of_no_use_are_not_called_unreadable(damaged):
    expected = r"^road: found nothing for a test in 7 sound samples \(3 more cannot be read\), expected some$"
    with pytest.raises(InputError, match=expected):
        take(Tolerant(damaged, 9, ignored), 4, use=lambda sample: None)


def test_the_search_for_a_substitute_ends(damaged, monkeypatch):
    monkeypatch.setattr("agvas_train.data.sets.adapter.TRIED", 4)
    part = Tolerant(Subset(damaged, [0, 1, 4, 5, 6, 7, 8]), 9, ignored)
    with pytest.raises(InputError, match=r"nothing for a test in [45] sound samples"):
        take(part, 3, use=lambda sample: None)


def test_substitutes_within_a_half_are_of_its_kind_and_the_report_names_it_and_the_whole_set_s_index(damaged):
    reports: list[str] = []
    normal, anomalous = (Tolerant(damaged.half(anomalous=which), 9, reports.append) for which in (False, True))
    assert {take(normal, 2, f"0/{index}") for index in range(100)} == {0, 1, 4, 5, 6, 7}
    assert take(anomalous, 1) == 8
    told = [report.split(": ")[0] for report in reports]
    assert sorted(told) == ["road 2, normal", "road 3, normal", "road 9, anomalous"]
