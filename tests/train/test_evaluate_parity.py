"""agvas-eval: the embedded bundle and the checkpoint it was made of get the same figures."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agvas_runtime.datasets import load_dataset
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Model

POINTS = 1.0
"""Percentage points between figures. The bundle's 8-bit parts move the map a little, see its manifest; on the four sets
of real defects (docs/evaluation.md) the means differ by up to 1.0, since one image more is rejected."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def spots(tmp_path: Path) -> Path:
    """Noisy grey images, three with a dark spot and two without."""
    random = np.random.default_rng(5)
    for index in range(5):
        image = random.normal(140, 6, (96, 128, 3)).clip(0, 255).astype(np.uint8)
        truth = np.zeros((96, 128), bool)
        if index < 3:
            truth[20 + 8 * index : 44 + 8 * index, 30 + 10 * index : 60 + 10 * index] = True
            image[truth] = 20
            mask = tmp_path / "part" / "ground_truth" / "spot" / f"{index}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(truth.astype(np.uint8) * 255).save(mask)
        path = tmp_path / "part" / "test" / ("spot" if index < 3 else "good") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path


def test_a_bundle_and_its_checkpoint_get_the_same_figures(spots: Path) -> None:
    dataset = load_dataset(spots)
    bundle, checkpoint = (evaluate_dataset(Model(engine, threads=1), dataset) for engine in ("ort", "reference"))
    found, expected = (asdict(done.evaluation.rows[0]) for done in (bundle, checkpoint))
    names = ("ap", "f1_max", "iou_ano", "iou_nor", "auroc", "pro", "image_auroc", "region_recall")
    assert {name: found[name] for name in names} == pytest.approx({name: expected[name] for name in names}, abs=POINTS)
    assert expected["ap"] > 30  # figures of nothing would agree too
    outcomes = [[record.outcome for record in done.evaluation.records] for done in (bundle, checkpoint)]
    assert outcomes[0] == outcomes[1]
    scores = [[record.score for record in done.evaluation.records] for done in (bundle, checkpoint)]
    np.testing.assert_allclose(scores[0], scores[1], atol=0.05)
