"""What counts as visible: by the colours that the surface has around a defect, and as somebody would mark it."""

import numpy as np
import pytest

from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth.compose import render
from agvas_train.data.synth.notes import Families
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.visible import bends, filled, stands_out

SIDE = 160
LEAST = 0.025


def scene(rgb: np.ndarray) -> Scene:
    return Scene("stone", "granite", "", rgb.astype(np.float32), {}, np.zeros(3, np.float32))


def grains(low: float, high: float) -> np.ndarray:
    """A surface of square grains, 8 pixels wide, of two brightnesses."""
    cells = np.random.default_rng(0).integers(0, 2, (SIDE // 8, SIDE // 8))
    grey = low + (high - low) * np.kron(cells, np.ones((8, 8)))
    return np.repeat(grey[..., None], 3, axis=2)


def seen(rgb: np.ndarray, mask: np.ndarray, colour: float | tuple[float, ...], noise: float = 0.0) -> bool:
    painted = rgb.astype(np.float32).copy()
    painted[mask] = colour
    everywhere = (slice(0, SIDE), slice(0, SIDE))
    surface = scene(rgb)
    return stands_out(surface, everywhere, mask, painted, LEAST, noise, surface.rgb)


def square(side: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[64 : 64 + side, 64 : 64 + side] = True
    return mask


def line() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[40:120, 80:82] = True
    return mask


def test_a_speck_of_a_grain_s_colour_is_hidden_and_a_black_one_is_not():
    surface = grains(0.4, 0.7)
    mask = square(8)
    there = float(surface[mask].mean())
    other = 0.4 if there > 0.5 else 0.7
    assert not seen(surface, mask, other)
    assert seen(surface, square(8), 0.02)


def discs(colour: float, radius: float, apart: int = 32) -> np.ndarray:
    """A light surface with few dark discs, so few that a mean and a deviation know nothing of them."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    dark = np.hypot(y % apart - apart / 2, x % apart - apart / 2) <= radius
    return np.repeat(np.where(dark, colour, 0.7)[..., None], 3, axis=2)


def disc(radius: float) -> np.ndarray:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    return np.hypot(y - 64, x - 64) <= radius


@pytest.mark.parametrize(
    ("grain", "mask", "found"),
    [
        (4.0, disc(4), False),
        (4.0, disc(4.5), False),
        (4.0, disc(10), True),
        (2.0, disc(6), True),
        (4.0, line(), True),
        (0.0, disc(4), True),
    ],
    ids=["as large", "a little larger", "much larger", "among specks", "long", "nothing like it"],
)
def test_a_spot_like_the_surface_s_own_is_hidden_however_few_they_are(grain, mask, found):
    surface = discs(0.2, grain) if grain else np.full((SIDE, SIDE, 3), 0.7)
    assert seen(surface, mask, 0.2) == found
    assert seen(surface, mask, (0.6, 0.1, 0.1))


def test_other_defects_do_not_hide_one():
    clean, defective = np.full((SIDE, SIDE, 3), 0.7, np.float32), discs(0.2, 4.0).astype(np.float32)
    painted = defective.copy()
    painted[disc(4)] = 0.2
    everywhere = (slice(0, SIDE), slice(0, SIDE))
    assert stands_out(scene(defective), everywhere, disc(4), painted, LEAST, 0.0, clean)
    assert not stands_out(scene(defective), everywhere, disc(4), painted, LEAST, 0.0, defective)


def test_defects_never_cover_most_of_a_picture():
    drawn = [render(5, index, SynthConfig(normal_share=0.0)) for index in range(150)]
    shares = [np.logical_or.reduce([item.mask for item in each.painted]).mean() for each in drawn if each.painted]
    assert max(shares) < 0.45  # narrow gaps between them count, too
    assert np.mean(np.array(shares) > 0.08) > 0.1


def test_a_broad_stain_may_be_fainter_than_a_speck():
    surface, rng = grains(0.45, 0.55), np.random.default_rng(1)
    surface = surface + rng.normal(0, 0.01, surface.shape)
    fainter = surface.mean() - 0.045
    assert seen(surface, square(48), fainter)
    assert not seen(surface, square(3), fainter)


def test_what_the_camera_s_noise_drowns_is_hidden():
    plain = np.full((SIDE, SIDE, 3), 0.5)
    assert seen(plain, line(), 0.42)
    assert not seen(plain, line(), 0.42, noise=0.08)


def test_yellow_against_blue_counts_less_than_brightness():
    plain = np.full((SIDE, SIDE, 3), 0.5)
    assert not seen(plain, line(), (0.5, 0.5, 0.4))
    assert seen(plain, line(), (0.4, 0.4, 0.4))
    assert seen(plain, line(), (0.6, 0.45, 0.5))  # redder, no brighter


def test_a_dent_is_seen_by_its_bright_or_its_dark_half():
    plain, mask = np.full((SIDE, SIDE, 3), 0.5, np.float32), square(20)
    painted = plain.copy()
    painted[64:74, 64:84] += 0.2
    painted[74:84, 64:84] -= 0.2
    everywhere = (slice(0, SIDE), slice(0, SIDE))
    assert abs(float((painted - plain)[mask].mean())) < 1e-6
    assert stands_out(scene(plain), everywhere, mask, painted, LEAST, 0.0, plain)


def test_what_fits_nowhere_else_is_compared_with_the_whole_surface():
    assert seen(grains(0.45, 0.55), square(90), 0.3)
    assert not seen(grains(0.2, 0.8), square(90), 0.45)


def test_off_the_part_there_is_no_surface_to_compare_with():
    part = scene(np.full((SIDE, SIDE, 3), 0.5))
    part.body = np.zeros((SIDE, SIDE), np.bool_)
    part.body[60:100, 60:100] = True
    part.rgb[~part.body] = 0.1  # the ground, which is what the defect looks like
    painted = part.rgb.copy()
    painted[64:70, 64:70] = 0.1
    assert stands_out(part, (slice(0, SIDE), slice(0, SIDE)), square(6), painted, LEAST, 0.0, part.rgb)


def threads(period: float = 6.0) -> np.ndarray:
    """Threads that run along x."""
    grey = 0.5 + 0.2 * np.sin(2 * np.pi * np.arange(SIDE) / period)[:, None] * np.ones(SIDE)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


@pytest.mark.parametrize(("surface", "found"), [("threads", True), ("grains", False), ("noise", False)])
def test_a_turned_piece_is_found_where_the_surface_has_a_direction(surface, found):
    noise = np.random.default_rng(2).normal(0.5, 0.1, (SIDE, SIDE, 1)).repeat(3, axis=2).astype(np.float32)
    rgb = {"threads": threads(), "grains": grains(0.4, 0.7).astype(np.float32), "noise": noise}[surface]
    mask, painted = square(32), rgb.copy()
    painted[mask] = np.rot90(rgb, 1)[mask]
    everywhere = (slice(0, SIDE), slice(0, SIDE))
    assert bends(scene(rgb), everywhere, mask, painted) == found
    assert not bends(scene(rgb), everywhere, mask, rgb.copy())


def test_narrow_gaps_are_marked_and_far_pixels_stay_apart():
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[60:80:2, 60:80] = True
    mask[0, 0] = mask[140, 140] = True
    marked = filled(mask)
    assert marked[60:79, 60:80].all()
    assert marked[mask].all()
    assert marked.sum() == 19 * 20 + 2


@pytest.mark.parametrize("families", [Families.TRAINING, Families.HELD_OUT])
def test_nearly_every_image_that_is_to_have_a_defect_has_one(families):
    drawn = [render(3, index, SynthConfig(families=families, normal_share=0.0)) for index in range(150)]
    assert sum(bool(each.painted) for each in drawn) >= 0.85 * len(drawn)
