"""AP and F1-Max equal scikit-learn's; the IoUs are the paper's A.1 and A.2."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from agvas_runtime.metrics import PixelScores, average_precision, f1_max, iou, iou_ano, iou_nor, mean

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
