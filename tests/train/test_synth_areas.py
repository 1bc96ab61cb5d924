"""Broad patches of another shade, which large real defects often are."""

import numpy as np

from agvas_train.data.synth.defects_areas import off_shade
from agvas_train.data.synth.scene import Scene

SIDE = 160


def grey_plate() -> Scene:
    rgb = np.full((SIDE, SIDE, 3), 0.4, np.float32)
    return Scene("smooth", "plate", "", rgb, {}, np.zeros(3, np.float32), grey=True)


def test_off_shade_patches_are_broad_and_differ_as_much_as_they_are_asked_to():
    shares = []
    for seed in range(60):
        strength = 0.2 if seed % 2 else 0.9
        stroke = off_shade(np.random.default_rng(seed), grey_plate(), strength)
        assert stroke is not None
        inside = stroke.shape.alpha > 0.99
        shares.append(inside.sum() / SIDE**2)
        by = abs(np.log(stroke.target[inside].mean() / 0.4))
        assert abs(by - (0.1 + 0.6 * strength)) < 0.05
        assert np.ptp(stroke.target, axis=2).max() < 1e-6  # grey stays grey
    assert 0.005 < np.median(shares) < 0.2
    assert max(shares) > 0.1


def test_off_shade_patches_have_a_clear_outline():
    edges = []
    for seed in range(20):
        stroke = off_shade(np.random.default_rng(seed), grey_plate(), 0.5)
        alpha = stroke.shape.alpha
        between = ((alpha > 0.05) & (alpha < 0.95)).sum()
        edges.append(between / (alpha > 0.5).sum())
    assert np.median(edges) < 0.5


def coloured_plate(structure: float = 0.0) -> Scene:
    rgb = np.full((SIDE, SIDE, 3), (0.5, 0.4, 0.3), np.float32)
    rgb *= 1 + np.float32(structure) * np.random.default_rng(5).choice((-1, 1), (SIDE, SIDE, 1)).astype(np.float32)
    return Scene("smooth", "plate", "", rgb, {}, np.zeros(3, np.float32), grey=False)


def test_some_patches_are_tinted_where_the_surface_has_colour():
    tints = []
    for seed in range(100):
        stroke = off_shade(np.random.default_rng(seed), coloured_plate(), 0.5)
        inside = stroke.shape.alpha > 0.99
        gains = stroke.target[inside].mean(axis=0) / (0.5, 0.4, 0.3)
        tints.append(np.log(gains).std())
    assert 20 < sum(tint > 0.02 for tint in tints) < 60
    assert sum(tint < 1e-3 for tint in tints) > 40


def test_some_patches_keep_less_of_the_surfaces_structure_and_others_all_of_it():
    kept = []
    for seed in range(100):
        stroke = off_shade(np.random.default_rng(seed), coloured_plate(0.2), 0.0)
        inside = stroke.shape.alpha > 0.99
        grey = stroke.target.mean(axis=2)[inside]
        kept.append(grey.std() / grey.mean() / 0.2)
    assert sum(share < 0.8 for share in kept) > 10
    assert sum(abs(share - 1) < 0.05 for share in kept) > 30
