"""Rails cut into squares: none cuts a defect where that can be, and the normal ones hold none."""

from pathlib import Path

import numpy as np
import pytest

from agvas_train.data.standardize.parts import Part, ranked
from agvas_train.data.standardize.rsdd import CROPS, crops, windows
from tests.train.standardize.downloads import long_mask

RAIL = Part("RSDD", "rail", Path("rail.png"), Path("truth.png"), "anomaly")


def test_windows_are_counted_as_a_loop_would():
    counts = (np.random.default_rng(0).random(40) < 0.4) * np.arange(40)
    held, uncut = windows(counts, 7)
    assert len(held) == len(uncut) == 34
    for start in range(34):
        assert held[start] == counts[start : start + 7].sum()
        cuts_above = start > 0 and counts[start - 1] and counts[start]
        cuts_below = start + 7 < 40 and counts[start + 6] and counts[start + 7]
        assert uncut[start] == (not cuts_above and not cuts_below)


@pytest.mark.parametrize("turned", [False, True])
def test_squares_hold_whole_defects_or_none(turned):
    mask = long_mask(200, 20, (30, 36), (90, 100)) > 0
    mask = mask.T if turned else mask
    parts = crops(RAIL, mask, seed=0)
    assert [part.kind for part in parts] == ["anomaly"] * CROPS + ["good"] * CROPS
    assert len({part.stem for part in parts}) == len(parts)
    for part in parts:
        left, top, right, bottom = part.box
        assert (right - left, bottom - top) == (20, 20)
        cut = mask[top:bottom, left:right]
        assert cut.sum() in ((6 * 15, 10 * 15) if part.mask else (0,))


def test_a_defect_longer_than_a_square_fills_as_much_as_it_can():
    parts = crops(RAIL, long_mask(100, 10, (20, 60)) > 0, seed=0)
    for part in [part for part in parts if part.mask]:
        assert 20 <= part.box[1] <= 50


def test_a_rail_that_is_defective_all_over_has_no_normal_squares():
    parts = crops(RAIL, long_mask(100, 10, *((at, at + 2) for at in range(0, 100, 4))) > 0, seed=0)
    assert len(parts) == CROPS
    assert all(part.mask for part in parts)


def test_squares_are_spread_over_the_rail():
    mask = np.zeros((1000, 10), bool)
    starts = [crops(RAIL, mask, seed)[0].box[1] for seed in range(50)]
    assert min(starts) < 250 < 750 < max(starts)


@pytest.mark.parametrize("seed", range(20))
def test_the_second_square_does_not_meet_the_first_where_there_is_room(seed):
    parts = crops(RAIL, long_mask(90, 20, (5, 10), (60, 70)) > 0, seed)
    for kind in ("anomaly", "good"):
        first, second = (part.box[1] for part in parts if part.kind == kind)
        assert second - first >= 20


def test_without_room_two_squares_meet():
    parts = crops(RAIL, long_mask(41, 20, (20, 22)) > 0, seed=0)
    first, second = (part.box[1] for part in parts if part.mask)
    assert 2 <= first < second <= 20


def test_a_draw_depends_on_seed_and_names_alone():
    names = [f"{number}" for number in range(30)]
    assert ranked(7, names, str) == ranked(7, names[::-1], str)
    assert sorted(ranked(7, names, str)) == sorted(names)
    assert ranked(8, names, str)[:5] != ranked(7, names, str)[:5]
