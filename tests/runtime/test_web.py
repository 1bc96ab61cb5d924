"""Every defect of a web once, where it is, whatever blocks its rows come in. The long form is `tools/web_proof.py`."""

import numpy as np
import pytest

from agvas_runtime.regions import find_regions
from agvas_runtime.tiling import Bands, Tiling
from agvas_runtime.web import WebStitcher, find_defects
from agvas_runtime.web_regions import WebRegions
from tools.web_proof import KINDS, compare, inspect, make_web, stitching, threshold, whole

SMALL = Tiling(96, 80, 16)
WEB = make_web(6000, 230, SMALL)
WHOLE = whole(WEB)


def rows(*lines: str) -> tuple[np.ndarray, np.ndarray]:
    """Mask and score of lines where # is a defect, and 1 to 9 one of such a score."""
    mask = np.array([[c != "." for c in line] for line in lines])
    score = np.array([[{"#": 1.0, ".": 0.0}.get(c) or float(c.replace(".", "0")) / 10 for c in line] for line in lines])
    return mask, score.astype(np.float32)


def test_the_short_web_has_defects_of_every_kind():
    assert {each.kind for each in WEB.planted} >= set(KINDS) | {"at the start of the web", "at the end of the web"}
    assert len(WHOLE) == len(WEB.planted)


@pytest.mark.parametrize("height", [1, 3, 80, 95, 96, 97, 1000, 6000])
def test_every_planted_defect_is_reported_once_where_it_is(height):
    found, _ = inspect(WEB, height, SMALL)
    report = compare(WEB, found, WHOLE)
    assert report["right"], report
    assert (report["most_off_px"], report["areas_differ"]) == (0, 0)
    assert not any(each.begins_cut or each.ends_cut for each in found)


def test_the_comparison_notices_a_defect_that_is_missing_or_reported_twice():
    found, _ = inspect(WEB, 96, SMALL)
    assert not compare(WEB, found[:-1], WHOLE)["right"]
    assert not compare(WEB, [*found, found[0]], WHOLE)["right"]


def test_memory_does_not_grow_with_the_web():
    report = stitching(8000, 600, (64,), timed=False)
    assert report["block_heights"][64]["right"]
    assert report["block_heights"][64]["growth"]["traced"] < 1.1


@pytest.mark.slow
def test_webs_of_100_000_rows():
    report = stitching(100_000, 1300, (1, 449, 5000))
    for run in report["block_heights"].values():
        assert run["right"], run
        assert run["growth"]["traced"] < 1.1


@pytest.mark.parametrize(("last_row", "band"), [(78, 0), (79, 1), (80, 1)])
def test_a_defect_that_touches_the_last_settled_row_comes_with_the_next_band(last_row, band):
    web = np.zeros((300, 80, 3), np.uint8)
    web[70 : last_row + 1, 10:20] = 255
    section, stitcher, found = Bands(SMALL), WebStitcher(80, SMALL, WebRegions(80)), []
    section.add(web)
    while taken := section.take():
        for columns in stitcher.columns:
            stitcher.tile(taken, columns, *threshold(taken.pixels[:, columns]))
        found.append([defect.last_row for defect in stitcher.end_band(taken)])
    assert found[band] == [last_row]
    assert sum(map(len, found)) == 1


@pytest.mark.parametrize("density", [0.02, 0.2, 0.45, 0.8])
def test_noise_gives_the_same_defects_as_the_whole_image(density, rng):
    image = np.where(rng.random((300, 150, 1)) < density, 230, 20).astype(np.uint8).repeat(3, axis=2)
    image[..., 0] += rng.integers(0, 20, image.shape[:2], dtype=np.uint8)
    expected = sorted(find_regions(*threshold(image)), key=lambda each: (each.box[1], each.box[0], each.area_px))
    cuts = np.unique(rng.integers(1, 300, 12))
    found = list(find_defects(np.split(image, cuts), threshold, Tiling(40, 30, 6), 150))
    found.sort(key=lambda each: (each.first_row, each.x0, each.area_px))
    assert [(each.x0, each.first_row, each.x1, each.last_row + 1, each.area_px) for each in found] == [
        (*each.box, each.area_px) for each in expected
    ]
    for one, other in zip(found, expected, strict=True):
        ours = (one.centroid_x, one.centroid_row, one.mean_score, one.max_score)
        assert ours == pytest.approx((*other.centroid, other.mean_score, other.max_score))


def test_a_defect_is_reported_with_the_rows_that_end_it_and_not_before():
    regions = WebRegions(4)
    assert regions.add(0, *rows(".#..", ".##.")) == []
    assert regions.open == 1
    assert regions.add(2, *rows("...#")) == []  # corners connect
    (defect,) = regions.add(3, *rows("....", "#..."))
    assert (defect.first_row, defect.last_row, defect.x0, defect.x1, defect.area_px) == (0, 2, 1, 4, 4)
    (other,) = regions.end(cut=False)
    assert (other.first_row, other.last_row, other.ends_cut) == (4, 4, False)


def test_arms_that_meet_are_one_defect_and_arms_that_part_too():
    regions = WebRegions(5)
    assert regions.add(0, *rows("#...#", "#.#.#")) == []
    assert regions.open == 3
    assert regions.add(2, *rows("#####")) == []
    assert regions.open == 1
    assert regions.add(3, *rows("#...#")) == []
    assert regions.add(4, *rows("#...#")) == []
    (defect,) = regions.end(cut=False)
    assert (defect.area_px, defect.first_row, defect.last_row) == (14, 0, 4)


def test_what_the_recipe_does_not_count_is_counted_only():
    regions = WebRegions(6, min_area_px=2, min_score=0.5)
    assert regions.add(0, *rows("#.33..", "......")) == []
    (defect,) = regions.add(2, *rows("99....", "......"))
    assert defect.mean_score == pytest.approx(0.9)
    assert regions.add(4, *rows("33....")) == []
    assert regions.end(cut=False) == []
    assert regions.ignored == 3


def test_min_area_is_that_of_the_whole_defect_not_of_its_piece_in_a_band():
    regions = WebRegions(3, min_area_px=3)
    for row in range(3):
        assert regions.add(row, *rows(".#.")) == []
    assert [each.area_px for each in regions.end(cut=False)] == [3]


def test_skipped_rows_cut_the_defects_above_and_below():
    regions = WebRegions(5)
    regions.add(0, *rows("#....", "#..#."))
    above = regions.end(cut=True)
    assert [(each.begins_cut, each.ends_cut) for each in above] == [(False, True), (False, True)]
    below = regions.add(10, *rows("#....", "...#.")) + regions.end(cut=False)
    assert [(each.first_row, each.begins_cut, each.ends_cut) for each in below] == [
        (10, True, False),
        (11, False, False),
    ]


def test_a_defect_that_is_too_long_is_reported_in_pieces_that_say_so():
    regions, found = WebRegions(3, longest=10), []
    for first in range(0, 36, 4):
        found += regions.add(first, *rows(*["##."] * 4))
        assert regions.open == 1
    found += regions.end(cut=False)
    assert [(each.first_row, each.last_row) for each in found] == [(0, 11), (12, 23), (24, 35)]
    assert [(each.begins_cut, each.ends_cut) for each in found] == [(False, True), (True, True), (True, True)]
    assert sum(each.area_px for each in found) == 72


def test_a_defect_begins_with_the_encoder_count_of_its_first_row():
    regions = WebRegions(5, encoder_of=lambda row: 1000 + row)
    regions.add(0, *rows(".....", "#....", "#...#"))
    regions.add(3, *rows("#####"))
    (defect,) = regions.end(cut=False)
    assert (defect.first_row, defect.encoder_count) == (1, 1001)
    (other,) = regions.add(9, *rows("..#..", "....."))
    assert other.encoder_count == 1009
