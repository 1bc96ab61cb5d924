"""Threshold, alpha and region of interest of a recipe: in results, batches and streams, and on the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from agvas_runtime import segment_files
from agvas_runtime.cli import app
from agvas_runtime.console import run
from agvas_runtime.encoding import mask_from_png
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_image
from agvas_runtime.maps import window
from agvas_runtime.modes import Request
from agvas_runtime.regions import find_regions
from agvas_runtime.result import AnswerKind, Result
from agvas_runtime.segmenter import GroupMap, Segmenter
from agvas_runtime.verdict import Recipe
from tests.runtime.test_cli import Standing
from tests.runtime.test_segmenter import _answering
from tests.runtime.test_writer import scripted

PLAIN = Recipe()


@pytest.fixture(scope="module")
def usual(segmenter: Segmenter, photo: Path) -> Result:
    """The photo's result with nothing set; its mask is neither empty nor full."""
    result = segmenter.segment(photo)
    assert 0 < result.mask.mean() < 1
    return result


@pytest.fixture(scope="module")
def roi(usual: Result) -> tuple[int, int, int, int]:
    """A box that cuts the mask."""
    x0, y0, x1, y1 = usual.regions[0].box
    return x0 + 2, y0 + 1, (x0 + x1) // 2, y1 - 1


def kept(probability: np.ndarray, roi: tuple[int, int, int, int]) -> np.ndarray:
    """The map with zeros outside the box."""
    x0, y0, x1, y1 = roi
    out = np.zeros_like(probability)
    out[y0:y1, x0:x1] = probability[y0:y1, x0:x1]
    return out


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7, 1.0])
def test_a_recipes_threshold_takes_the_place_of_the_bundles(
    segmenter: Segmenter, photo: Path, usual: Result, threshold: float
) -> None:
    result = segmenter.segment(photo, recipe=Recipe(threshold=threshold))
    np.testing.assert_array_equal(result.probability, usual.probability)
    np.testing.assert_array_equal(result.mask, usual.probability > np.float32(threshold))
    assert result.regions == find_regions(result.mask, result.probability)
    assert result.threshold == threshold
    assert usual.threshold == segmenter.manifest.model.threshold


def test_alpha_weighs_the_two_maps(segmenter: Segmenter, photo: Path, usual: Result) -> None:
    absolute, relative, mixed = (
        segmenter.segment(photo, recipe=Recipe(alpha=alpha)).probability for alpha in (1.0, 0.0, 0.25)
    )
    assert np.abs(absolute - relative).max() > 0.01
    np.testing.assert_allclose(mixed, 0.25 * absolute + 0.75 * relative, atol=1e-6)
    own = Recipe(alpha=segmenter.manifest.model.alpha)
    np.testing.assert_array_equal(segmenter.segment(photo, recipe=own).probability, usual.probability)


def test_outside_the_roi_nothing_belongs_to_map_mask_or_regions(
    segmenter: Segmenter, photo: Path, usual: Result, roi: tuple[int, int, int, int]
) -> None:
    result = segmenter.segment(photo, recipe=Recipe(roi=roi))
    np.testing.assert_array_equal(result.probability, kept(usual.probability, roi))
    np.testing.assert_array_equal(result.mask, kept(usual.mask, roi))
    assert 0 < result.defect_area_px < usual.defect_area_px
    assert result.regions == find_regions(result.mask, result.probability)
    assert "inside ({}, {}, {}, {})".format(*roi) in result.reason


def test_at_threshold_0_the_mask_ends_at_the_roi(segmenter: Segmenter, photo: Path) -> None:
    result = segmenter.segment(photo, recipe=Recipe(threshold=0, roi=(3, 4, 20, 30)))
    assert result.regions[0].box == (3, 4, 20, 30)
    assert result.defect_area_px == 17 * 26


def test_what_sticks_out_of_the_frame_is_cut_off(segmenter: Segmenter, photo: Path, usual: Result) -> None:
    height, width = usual.size
    result = segmenter.segment(photo, recipe=Recipe(roi=(0, 0, width + 1, 2**62)))
    np.testing.assert_array_equal(result.probability, usual.probability)
    corner = (width - 1, height - 1, width + 5, height + 5)
    result = segmenter.segment(photo, recipe=Recipe(roi=corner, threshold=0))
    assert result.regions[0].box == (width - 1, height - 1, width, height)


@pytest.mark.parametrize("past", ["right", "bottom"])
def test_a_roi_outside_the_frame_is_refused_whatever_the_answer(
    segmenter: Segmenter, photo: Path, usual: Result, past: str
) -> None:
    height, width = usual.size
    roi = (width, 0, width + 9, 9) if past == "right" else (0, height, 9, height + 9)
    expected = f"recipe.roi: found {roi}, expected one that meets the frame of {width} x {height} pixels"
    rejects = segmenter.prompter.answer("Nothing unusual is found in this image.", anchors=False)[0]
    for each in (segmenter, _answering(segmenter, rejects)):
        with pytest.raises(InputError) as caught:
            each.segment(photo, recipe=Recipe(roi=roi))
        assert str(caught.value) == expected
    with pytest.raises(InputError):
        next(segmenter.stream(photo, recipe=Recipe(roi=roi)))


def test_without_a_roi_the_window_is_the_frame() -> None:
    assert window(None, (4, 5)) == (slice(0, 4), slice(0, 5))


def test_the_roi_holds_for_every_groups_map(segmenter: Segmenter, photo: Path, roi: tuple[int, int, int, int]) -> None:
    text = "Two: [NOR][ANO][SEG] and [SEG] here."
    whole = scripted(segmenter, text).segment(photo)
    result = scripted(segmenter, text).segment(photo, recipe=Recipe(roi=roi))
    assert len(result.group_maps) == 2
    for found, expected in zip(result.group_maps, whole.group_maps, strict=True):
        np.testing.assert_array_equal(found, kept(expected, roi))


def test_a_stream_follows_the_recipe(segmenter: Segmenter, photo: Path, roi: tuple[int, int, int, int]) -> None:
    recipe = Recipe(threshold=0.3, alpha=1.0, roi=roi)
    expected = segmenter.segment(photo, recipe=recipe)
    *events, result = segmenter.stream(photo, recipe=recipe)
    assert isinstance(result, Result)
    np.testing.assert_array_equal(result.mask, expected.mask)
    assert (result.threshold, result.reason) == (0.3, expected.reason)
    (group,) = [event for event in events if isinstance(event, GroupMap)]
    np.testing.assert_array_equal(group.probability, expected.probability)


def test_frames_of_a_batch_have_each_their_recipe(
    segmenter: Segmenter, photo: Path, roi: tuple[int, int, int, int]
) -> None:
    image = read_image(photo)
    frames = [image, image[:, ::-1], image]
    recipes = [PLAIN, Recipe(threshold=0.2, min_area_px=10**6), Recipe(roi=roi)]
    plain = segmenter.segment_batch(frames, Request(), PLAIN)
    first, second, third = segmenter.segment_batch(frames, Request(), recipes)
    for found, expected in zip((first, second), plain, strict=False):
        np.testing.assert_array_equal(found.probability, expected.probability)
    np.testing.assert_array_equal(first.mask, plain[0].mask)
    np.testing.assert_array_equal(second.mask, plain[1].probability > np.float32(0.2))
    np.testing.assert_array_equal(third.probability, kept(plain[2].probability, roi))
    assert [result.threshold for result in (first, second, third)] == [0.5, 0.2, 0.5]
    assert "at least 1000000 px" in second.reason


def test_frames_of_a_batch_share_alpha(segmenter: Segmenter, photo: Path) -> None:
    own = segmenter.manifest.model.alpha
    recipes = [PLAIN, Recipe(alpha=own)]
    assert len(segmenter.segment_batch([photo, photo], Request(), recipes)) == 2
    with pytest.raises(InputError, match=r"recipe.alpha: found 0.25 and 0.5, expected the same for all images"):
        segmenter.segment_batch([photo, photo], Request(), [Recipe(alpha=0.25), PLAIN])


def test_a_batch_needs_a_recipe_for_each_image(segmenter: Segmenter, photo: Path) -> None:
    with pytest.raises(InputError, match="recipe: found 1 for 2 images, expected one for each"):
        segmenter.segment_batch([photo, photo], Request(), [PLAIN])


def test_an_answer_without_anchors_has_an_empty_map_inside_the_roi_too(segmenter: Segmenter, photo: Path) -> None:
    result = scripted(segmenter, "Yes, it is.").segment(photo, recipe=Recipe(threshold=0, roi=(0, 0, 5, 5)))
    assert result.answer_kind is AnswerKind.OTHER
    assert not result.mask.any()


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        run(app, [str(argument) for argument in ("segment", *arguments)])
    out, err = capsys.readouterr()
    return caught.value.code, out, err


def test_the_command_takes_threshold_alpha_and_roi(
    segmenter: Segmenter,
    photo: Path,
    roi: tuple[int, int, int, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = segmenter.segment(photo, recipe=Recipe(threshold=0.3, alpha=1.0, roi=roi))
    settings = ("--threshold", 0.3, "--alpha", 1, "--roi", ", ".join(map(str, roi)))
    code, out, err = command(capsys, photo, *settings, "--json", "--out", tmp_path)
    assert (code, err) == (0, "")
    (row,) = json.loads(out)
    assert (row["defect_area_px"], row["reason"]) == (expected.defect_area_px, expected.reason)
    np.testing.assert_array_equal(mask_from_png(Path(row["mask"]).read_bytes()), expected.mask)
    assert 0 < expected.defect_area_px < segmenter.segment(photo).defect_area_px


def test_the_commands_masks_of_groups_follow_the_threshold(
    segmenter: Segmenter,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "Two: [NOR][ANO][SEG] and [SEG] here."
    expected = scripted(segmenter, text).segment(photo, recipe=Recipe(threshold=0.2))
    standing = Standing(segmenter, segment_batch=scripted(segmenter, text).segment_batch)
    monkeypatch.setattr(segment_files, "open_bundle", lambda *_: standing)
    _, out, _ = command(capsys, photo, "--threshold", 0.2, "--json", "--out", tmp_path)
    (row,) = json.loads(out)
    for group, probability in zip(row["groups"], expected.group_maps, strict=True):
        mask = mask_from_png(Path(group["mask"]).read_bytes())
        np.testing.assert_array_equal(mask, probability > np.float32(0.2))
        assert group["defect_area_px"] == mask.sum() > (probability > 0.5).sum()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (("--roi", "1,2,3"), "--roi: found '1,2,3', expected X0,Y0,X1,Y1 in pixels"),
        (("--roi", "1,2,3,x"), "--roi: found '1,2,3,x', expected X0,Y0,X1,Y1 in pixels"),
        (("--roi", "1,2,3,4.5"), "--roi: found '1,2,3,4.5', expected"),
        (("--roi", ""), "--roi: found '', expected X0,Y0,X1,Y1 in pixels"),
        (("--roi", "5,0,5,9"), "--roi: found (5, 0, 5, 9), expected x0 < x1 and y0 < y1, none of them negative"),
        (("--roi=-1,0,5,9",), "--roi: found (-1, 0, 5, 9), expected x0 < x1"),
        (("--roi", "9000,0,9001,1"), "recipe.roi: found (9000, 0, 9001, 1), expected one that meets the frame of"),
        (("--threshold", "1.5"), "--threshold"),
        (("--threshold", "nan"), "--threshold"),
        (("--alpha", "-0.1"), "--alpha"),
    ],
)
def test_settings_that_make_no_sense_are_one_line_and_exit_code_2(
    photo: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], text: str
) -> None:
    code, out, err = command(capsys, photo, *settings)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1
