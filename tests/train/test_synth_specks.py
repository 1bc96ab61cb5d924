"""Of scattered specks those are painted and marked that somebody would find."""

import numpy as np

from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth.applied import applied
from agvas_train.data.synth.camera import Camera
from agvas_train.data.synth.paint import Stroke
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import Shape, join

SIDE, CONFIG = 160, SynthConfig()
CAMERA = Camera.draw(np.random.default_rng(0), SynthConfig(blur_share=0, oblique_share=0), harsh=True, grey=False)


def grains() -> np.ndarray:
    """A light surface with dark discs, 32 pixels apart, float32 [H,W,3]."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    dark = np.hypot(y % 32 - 16, x % 32 - 16) <= 4
    return np.repeat(np.where(dark, 0.2, 0.7)[..., None], 3, axis=2).astype(np.float32)


def disc(y: int, x: int, radius: int = 4) -> Shape:
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return Shape(y - radius, x - radius, (np.hypot(rows, columns) <= radius).astype(np.float32))


def stroke(shapes: list[Shape], colours: list[tuple[float, float, float]]) -> Stroke:
    whole = join(shapes)
    assert whole is not None
    target = np.zeros((*whole.alpha.shape, 3), np.float32)
    for shape, colour in zip(shapes, colours, strict=True):
        y, x = shape.top - whole.top, shape.left - whole.left
        height, width = shape.alpha.shape
        target[y : y + height, x : x + width] = colour
    return Stroke(whole, target, ("scattered",), specks=shapes)


def paint(colours: list[tuple[float, float, float]]):
    clean = grains()
    scene = Scene("stone", "terrazzo", "", clean.copy(), {}, np.zeros(3, np.float32))
    shapes = [disc(64, 64), disc(64, 96)]  # between the grains
    return applied(scene, clean, stroke(shapes, colours), CONFIG, CAMERA, SIDE * SIDE), scene, clean


def test_a_speck_like_the_grains_is_left_out_and_a_strange_one_stays():
    done, scene, clean = paint([(0.2, 0.2, 0.2), (0.9, 0.1, 0.1)])
    assert done is not None
    assert done.mask[64, 96]
    assert not done.mask[64, 64]
    assert "scattered" not in done.looks
    assert np.array_equal(scene.rgb[56:73, 56:73], clean[56:73, 56:73])


def test_where_all_are_like_the_grains_nothing_is_painted():
    done, scene, clean = paint([(0.2, 0.2, 0.2), (0.2, 0.2, 0.2)])
    assert done is None
    assert np.array_equal(scene.rgb, clean)


def test_strange_ones_all_stay():
    done, _, _ = paint([(0.1, 0.2, 0.9), (0.9, 0.1, 0.1)])
    assert done is not None
    assert done.mask[64, 96]
    assert done.mask[64, 64]
    assert "scattered" in done.looks
