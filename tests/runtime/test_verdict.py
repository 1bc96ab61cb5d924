"""The verdict's rule."""

import pytest
from pydantic import ValidationError

from agvas_runtime.regions import Region
from agvas_runtime.verdict import AnswerKind, Recipe, Verdict, judge


def region(area_px=10, mean_score=0.8):
    return Region(area_px, (0, 0, area_px, 1), (0.0, 0.0), mean_score, 0.9)


def test_a_rejection_passes_the_part():
    assert judge("rejected", [], Recipe())[0] is Verdict.PASS


def test_any_other_text_is_no_answer_even_with_regions():
    verdict, reason = judge(AnswerKind.OTHER, [region()], Recipe())
    assert verdict is Verdict.NO_ANSWER
    assert "neither" in reason


def test_a_region_that_meets_the_recipe_rejects_the_part():
    verdict, reason = judge("segmented", [region(30), region(5)], Recipe(min_area_px=20, min_score=0.5))
    assert verdict is Verdict.REJECT
    assert reason.startswith("1 of 2 regions")


@pytest.mark.parametrize("regions", [[], [region(area_px=19)], [region(area_px=50, mean_score=0.49)]])
def test_regions_below_the_recipe_pass_the_part(regions):
    assert judge("segmented", regions, Recipe(min_area_px=20, min_score=0.5))[0] is Verdict.PASS


def test_area_and_score_must_be_met_by_one_and_the_same_region():
    regions = [region(area_px=50, mean_score=0.1), region(area_px=2, mean_score=0.9)]
    assert judge("segmented", regions, Recipe(min_area_px=20, min_score=0.5))[0] is Verdict.PASS


def test_an_unknown_answer_kind_is_refused():
    with pytest.raises(ValueError, match="perhaps"):
        judge("perhaps", [], Recipe())


@pytest.mark.parametrize("regions", [[], [region(5)], [region(30)]])
def test_the_reason_names_the_roi(regions):
    recipe = Recipe(min_area_px=20, roi=(1, 2, 30, 40))
    assert "inside (1, 2, 30, 40)" in judge("segmented", regions, recipe)[1]
    assert "inside" not in judge("segmented", regions, Recipe(min_area_px=20))[1]


def test_what_a_recipe_leaves_out_is_the_bundles():
    assert (Recipe().threshold_or(0.5), Recipe().alpha_or(0.25)) == (0.5, 0.25)
    recipe = Recipe(threshold=0, alpha=0)
    assert (recipe.threshold_or(0.5), recipe.alpha_or(0.25)) == (0, 0)


@pytest.mark.parametrize("roi", [(5, 0, 5, 9), (0, 9, 5, 9), (6, 0, 5, 9), (-1, 0, 5, 9), (0, -1, 5, 9)])
def test_a_roi_without_an_inside_is_refused(roi):
    with pytest.raises(ValidationError, match="expected x0 < x1 and y0 < y1, none of them negative"):
        Recipe(roi=roi)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_area_px": 0},
        {"min_score": 1.5},
        {"on_no_answer": "shrug"},
        {"area": 3},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"alpha": 1.1},
        {"alpha": float("nan")},
        {"roi": (1, 2, 3)},
        {"roi": (0, 0, 1.5, 3)},
    ],
)
def test_a_recipe_out_of_range_is_refused(wrong):
    with pytest.raises(ValidationError):
        Recipe(**wrong)
