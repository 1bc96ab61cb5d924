"""The camera: what it sees from the side, and that masks go the same way as the picture."""

from dataclasses import replace

import numpy as np
import pytest

from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth.camera import Camera

SIZE = (150, 210)


def clean(seed: int, **changes: object) -> Camera:
    """A camera that sees from the side, and does nothing else to the picture."""
    drawn = Camera.draw(np.random.default_rng(seed), SynthConfig(oblique_share=1.0), harsh=False, grey=False)
    neutral: dict[str, object] = {"tint": None, "gamma": 1.0, "contrast": 1.0, "offset": 0.0, "blur_px": 0.0}
    neutral |= {"motion": None, "sharpen": 0, "noise": 0.0, "shot": 0.0, "jpeg_quality": None}
    return replace(drawn, **(neutral | changes))


@pytest.mark.parametrize("seed", range(12))
def test_a_mask_goes_where_the_picture_goes(seed):
    mask = np.zeros((100, 140), np.bool_)
    mask[30:70, 40:90] = True
    camera = clean(seed)
    picture = camera.photograph(np.repeat(mask[..., None], 3, axis=2).astype(np.float32), SIZE)
    outline, bright = camera.outline(mask, SIZE), picture[..., 0] > 127
    assert outline.shape == SIZE
    assert (outline & bright).sum() > 0.97 * (outline | bright).sum()


@pytest.mark.parametrize("seed", range(40))
def test_a_view_from_the_side_sees_nothing_but_the_surface(seed):
    assert clean(seed).photograph(np.ones((100, 140, 3), np.float32), SIZE).min() > 250


def test_a_camera_in_front_leaves_the_picture_as_it_is():
    rgb = np.random.default_rng(0).random((64, 80, 3)).astype(np.float32)
    picture = clean(0, view=None).photograph(rgb, (64, 80))
    assert np.abs(picture / 255 - rgb).max() < 0.003


def test_a_sharpening_camera_makes_edges_steeper():
    rgb = np.full((64, 64, 3), 0.4, np.float32)
    rgb[:, 32:] = 0.6
    soft, sharp = (clean(0, view=None, sharpen=amount).photograph(rgb, (64, 64)) for amount in (0, 150))
    assert sharp.max() > soft.max() + 5
    assert sharp.min() < soft.min() - 5


def test_scans_are_seen_from_above():
    config = SynthConfig(oblique_share=1.0)
    assert Camera.draw(np.random.default_rng(0), config, harsh=True, grey=True).view is None
