"""AP, F1-Max and AUROC equal scikit-learn's, PRO a naive loop; the IoUs are the paper's A.1 and A.2."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from agvas_runtime.metrics import (
    PRO_LIMIT,
    PixelScores,
    auroc,
    average_precision,
    coverage,
    f1_max,
    iou,
    iou_ano,
    iou_nor,
    mean,
    regions_of,
)

RANDOM = np.random.default_rng(0)


def sklearn_f1_max(truth, scores):
    precision, recall, _ = precision_recall_curve(truth, scores)
    return np.max(2 * precision * recall / np.maximum(precision + recall, 1e-30))


def cases():
    scores = RANDOM.random(20_000).astype(np.float32)
    yield "no ties", scores, RANDOM.random(20_000) < 0.05 + 0.3 * scores
    coarse = np.floor(scores * 8).astype(np.float32) / 8
    yield "many ties", coarse, RANDOM.random(20_000) < 0.05 + 0.3 * coarse
    yield "mostly zero", np.where(scores > 0.95, scores, 0).astype(np.float32), RANDOM.random(20_000) < 0.01
    yield "all zero", np.zeros(1000, np.float32), RANDOM.random(1000) < 0.1
    yield "perfect", (scores > 0.9).astype(np.float32), scores > 0.9
    yield "inverted", (scores < 0.9).astype(np.float32), scores > 0.9
    yield "one defective pixel", scores, np.arange(20_000) == 77
    yield "all defective", scores, np.ones(20_000, bool)
    yield "negative scores", scores - np.float32(0.5), scores > 0.3
    yield (
        "neighbouring floats",
        np.nextafter(np.full(400, 0.5, np.float32), np.float32(1))
        - np.float32(6e-8) * RANDOM.integers(0, 3, 400).astype(np.float32),
        RANDOM.random(400) < 0.4,
    )


@pytest.mark.parametrize(("scores", "truth"), [pytest.param(s, t, id=name) for name, s, t in cases()])
def test_equals_scikit_learn(scores, truth):
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert f1_max(scores, truth) == pytest.approx(sklearn_f1_max(truth, scores), abs=1e-12)
    if not truth.all():
        assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def naive_pro(images):
    """Threshold by threshold, region by region, as the metric is told in words."""
    regions = []
    for scores, truth in images:
        numbered, count = label(truth, np.ones((3, 3)))
        regions += [scores[numbered == number] for number in range(1, count + 1)]
    sound = np.concatenate([scores[~truth] for scores, truth in images])
    rates, overlaps = [0.0], [0.0]
    for threshold in sorted({float(value) for scores, _ in images for value in scores.ravel()}, reverse=True):
        rates.append(np.mean(sound >= threshold))
        overlaps.append(np.mean([np.mean(region >= threshold) for region in regions]))
    inside = [rate for rate in rates if rate < PRO_LIMIT]
    ends = [*overlaps[: len(inside)], np.interp(PRO_LIMIT, rates, overlaps)]
    return np.trapezoid(ends, [*inside, PRO_LIMIT]) / PRO_LIMIT


def blobs(shape, share, levels=None):
    """A noisy score map and a ground truth of regions of many sizes, that have to do with each other."""
    truth = np.kron(RANDOM.random((-(-shape[0] // 3), -(-shape[1] // 3))) < share, np.ones((3, 3), bool))
    truth = truth[: shape[0], : shape[1]]
    scores = RANDOM.random(shape, dtype=np.float32) * np.float32(0.8) + np.float32(0.2) * truth
    return (scores if levels is None else np.floor(scores * levels) / np.float32(levels)), truth


@pytest.mark.parametrize("levels", [None, 5], ids=["no ties", "many ties"])
def test_pro_equals_a_naive_loop(levels):
    images = [blobs((31, 17), 0.05, levels), blobs((12, 40), 0.2, levels), blobs((9, 9), 0.0, levels)]
    pixels = PixelScores()
    for scores, truth in images:
        pixels.add(scores, truth)
    assert pixels.figures().pro == pytest.approx(naive_pro(images), abs=1e-12)


def test_pro_by_hand():
    """A region of 1 pixel and one of 4: found whole, and half, before the first false alarm; its rest after all."""
    truth = np.zeros((3, 8), bool)
    truth[0, 0] = truth[2, 4:8] = True
    scores = np.full(truth.shape, 0.5, np.float32)
    scores[0, 0], scores[2, 4:6], scores[2, 6:8] = 0.9, 0.8, 0.1
    pixels = PixelScores()
    pixels.add(scores, truth)
    assert pixels.figures().pro == pytest.approx(0.75)  # (1 + 0.5) / 2 over all of [0, 0.3]
    scores[1, :6] = 0.95  # 6 of 19 sound pixels come first: no region is found up to a rate of 0.3
    pixels = PixelScores()
    pixels.add(scores, truth)
    assert pixels.figures().pro == 0


def test_figures_of_one_defective_pixel_by_hand():
    truth = np.zeros((2, 5), bool)
    truth[1, 4] = True
    scores = np.array([[0.1, 0.9, 0.2, 0.7, 0.7], [0, 0, 0, 0, 0.7]], np.float32)
    pixels = PixelScores()
    pixels.add(scores, truth)
    found = pixels.figures()
    assert found.ap == pytest.approx(1 / 4)  # found with one above and two beside it
    assert found.f1_max == pytest.approx(2 / 5)
    assert found.auroc == pytest.approx((6 + 2 / 2) / 9)
    # up to 1/9 nothing, then in a line to all at 3/9, cut at 0.3
    width = 0.3 - 1 / 9
    assert found.pro == pytest.approx(width * (width / (2 / 9)) / 2 / 0.3)


@pytest.mark.parametrize("levels", [None, 6], ids=["no ties", "many ties"])
def test_more_pixels_than_are_held_give_the_same_figures(levels):
    images = [blobs((14, 18), 0.1, levels) for _ in range(6)]
    images.append((np.zeros((14, 18), np.float32), images[0][1]))  # a rejection: nothing but equal scores
    whole, pieces = PixelScores(), PixelScores(run_scores=90, piece_scores=12)
    for scores, truth in images:
        whole.add(scores, truth)
        pieces.add(scores, truth)
    assert whole.figures() == pytest.approx(pieces.figures(), abs=1e-12)
    scores = np.concatenate([scores.ravel() for scores, _ in images])
    truth = np.concatenate([truth.ravel() for _, truth in images])
    assert pieces.figures().ap == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert pieces.figures().f1_max == pytest.approx(sklearn_f1_max(truth, scores), abs=1e-12)
    assert pieces.figures().auroc == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert pieces.figures().pro == pytest.approx(naive_pro(images), abs=1e-12)


def peak_bytes(images):
    """What numpy holds at most while so many images are taken and read."""
    tracemalloc.start()
    pixels = PixelScores(run_scores=20_000, piece_scores=2_000)
    for _ in range(images):
        pixels.add(*blobs((100, 100), 0.3))
    assert pixels.figures().ap > 0.3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_category():
    assert peak_bytes(60) < 1.2 * peak_bytes(12)


def test_regions_touch_by_their_corners_and_are_those_of_scipy():
    truth = RANDOM.random((23, 41)) < 0.3
    numbered, count = label(truth, np.ones((3, 3)))
    assert set(zip(regions_of(truth).tolist(), numbered[truth].tolist(), strict=True)) == {
        (number, number + 1) for number in range(count)
    }
    assert regions_of(np.zeros((3, 4), bool)).size == 0


def test_coverage_is_told_region_by_region():
    truth, mask = np.zeros((4, 9), bool), np.zeros((4, 9), bool)
    truth[0, 0] = truth[1:3, 4:6] = truth[0, 8] = True
    mask[1, 3:6] = mask[0, 8] = True
    assert coverage(mask, truth) == [0, 1, 0.5]  # in the order of their first pixels
    assert coverage(mask, np.zeros((4, 9), bool)) == []


def test_images_of_several_sizes_are_one_category():
    pixels, all_scores, all_truth = PixelScores(), [], []
    for shape in ((30, 20), (7, 90), (1, 1)):
        scores = RANDOM.random(shape, dtype=np.float32)
        truth = RANDOM.random(shape) < 0.2
        pixels.add(scores, truth)
        all_scores.append(scores.ravel())
        all_truth.append(truth.ravel())
    scores, truth = np.concatenate(all_scores), np.concatenate(all_truth)
    assert pixels.average_precision() == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert pixels.f1_max() == pytest.approx(sklearn_f1_max(truth, scores), abs=1e-12)
    pixels.add(np.ones((5, 5), np.float32), np.ones((5, 5), bool))  # after a reading too
    scores, truth = np.append(scores, np.ones(25)), np.append(truth, np.ones(25, bool))
    assert pixels.average_precision() == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_the_callers_array_is_not_sorted():
    scores = RANDOM.random(100, dtype=np.float32)
    before = scores.copy()
    average_precision(scores, np.ones(100, bool))
    np.testing.assert_array_equal(scores, before)


def test_undefined_figures_are_nan():
    nothing = np.zeros(10, bool)
    assert math.isnan(average_precision(np.ones(10, np.float32), nothing))
    assert math.isnan(f1_max(np.ones(10, np.float32), nothing))
    assert math.isnan(PixelScores().average_precision())
    assert all(math.isnan(figure) for figure in PixelScores().figures())
    assert math.isnan(auroc(np.ones(10, np.float32), nothing))
    everything = PixelScores()
    everything.add(np.full((3, 5), 0.2, np.float32), np.ones((3, 5), bool))
    assert everything.figures()[:2] == (1, 1)  # whatever is called defective is
    assert all(math.isnan(figure) for figure in everything.figures()[2:])
    assert math.isnan(iou_ano([]))
    assert math.isnan(iou_nor([]))
    assert math.isnan(iou(nothing, nothing))


def test_nan_scores_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.array([0.5, np.nan], np.float32), np.array([True, False]))
    with pytest.raises(ValueError, match="must be the same"):
        f1_max(np.zeros((2, 3), np.float32), np.zeros((3, 2), bool))


def test_iou_ano_is_the_mean_over_images_not_over_pixels():
    small, large = np.zeros((10, 10), bool), np.ones((10, 10), bool)
    small[0, :2] = True
    half = np.zeros((10, 10), bool)
    half[:5] = True
    assert iou_ano([(small, small), (half, large), (np.zeros((10, 10), bool), small)]) == pytest.approx(0.5)


def test_iou_nor_is_the_share_of_empty_masks():
    empty, one = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert iou_nor([empty, empty, one, empty]) == 0.75


def test_the_mean_leaves_out_what_is_undefined():
    assert mean([1.0, float("nan"), 0.0]) == 0.5
