"""Circuit boards: figures touch no other, and a pad's hole belongs to the pad."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from agvas_train.data.synth.circuit import _Board, circuit
from agvas_train.data.synth.defects_circuit import excess, short


def board(seed: int = 0) -> _Board:
    return _Board(np.random.default_rng(seed), 120, 160)


def test_a_figure_that_would_touch_another_is_left_out():
    made = board()
    made.place(lambda new: new.path([(20, 60), (140, 60)], 8))
    before, tracks = made.copper(), list(made.tracks)
    made.place(lambda new: new.path([(80, 10), (80, 110)], 8))
    assert np.array_equal(made.copper(), before)
    assert made.tracks == tracks
    made.place(lambda new: new.path([(20, 100), (140, 100)], 8))
    assert made.copper().sum() > 1.8 * before.sum()
    assert len(made.tracks) == 2


def enclosed(copper: np.ndarray) -> np.ndarray:
    """Where copper is all around: the holes of pads and areas, as long as no figure touches another."""
    picture = Image.fromarray(np.pad(copper, 1).astype(np.uint8)).copy()
    ImageDraw.floodfill(picture, (0, 0), 1)
    return np.asarray(picture)[1:-1, 1:-1] == 0


@pytest.mark.parametrize("painter", [short, excess])
def test_no_copper_is_painted_into_the_hole_of_a_pad(painter):
    rng, painted = np.random.default_rng(1), 0
    for _ in range(40):
        scene = circuit(rng, 160, 160)
        stroke = painter(rng, scene, 1.0)
        if stroke is None:
            continue
        holes = enclosed(scene.parts["copper"])
        inside = np.zeros(scene.size, np.float32)
        inside[stroke.shape.window] = stroke.shape.alpha
        covered = (inside > 0.5) & ~scene.parts["copper"]
        if covered.any():
            painted += 1
            assert (covered & holes).sum() <= 0.1 * covered.sum() + 4
    assert painted >= 10
