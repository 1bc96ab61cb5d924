"""Living surfaces and scans: skin, the moist lining inside a body, X-ray and ultrasound pictures, leaves and fruit."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from agvas_train.data.synth.colours import hsv, over, pick, shade, times
from agvas_train.data.synth.fields import Field, cells, fractal, ramp, resize, smooth, turned, white
from agvas_train.data.synth.relief import slope
from agvas_train.data.synth.scene import Scene
from agvas_train.data.synth.shapes import arc, walk


def _from_middle(rng: np.random.Generator, height: int, width: int, oval: float = 1.0) -> Field:
    """Distance from about the middle in halves of the shorter side [H,W]."""
    side = min(height, width) / 2
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(height * rng.uniform(0.44, 0.56))) / side
    x = (np.arange(width, dtype=np.float32)[None] - np.float32(width * rng.uniform(0.44, 0.56))) / np.float32(
        side * oval
    )
    return np.sqrt(y * y + x * x)


def _round_view(rng: np.random.Generator, scene: Scene, share: float) -> Scene:
    """The scene as a scope shows it, sometimes: round, black beside the view."""
    if rng.random() < share:
        height, width = scene.size
        edge, soft = float(rng.uniform(0.9, 1.2)), float(rng.choice([0.01, 0.15]))
        view = ramp(-_from_middle(rng, height, width), -edge, -edge + soft)
        scene.rgb, scene.body = times(scene.rgb, view), view > 0.5
    return scene


def _thin_lines(rng: np.random.Generator, height: int, width: int, count: int, branching: bool) -> Field:
    """Hairs, or vessels that branch: cover [H,W] in [0,1]."""
    image = Image.new("L", (width * 2, height * 2), 0)
    draw, side = ImageDraw.Draw(image), min(height, width)
    for _ in range(count):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        turn, far, wide = (
            float(rng.uniform(0, 2 * np.pi)),
            side * float(rng.uniform(0.2, 0.9)),
            float(rng.uniform(1, 5)),
        )
        if not branching:
            draw.line([(2 * a, 2 * b) for a, b in arc((x, y), turn, far, float(rng.normal(0, 0.12)))], 255, 2)
            continue
        stem = walk(rng, (x, y), turn, far, step=6, wander=0.25)
        draw.line([(2 * a, 2 * b) for a, b in stem], 255, round(wide))
        for at in rng.integers(0, len(stem), 3).tolist():
            twig = walk(rng, tuple(stem[at]), turn + float(rng.choice([-0.8, 0.8])), far / 2, step=6, wander=0.3)
            draw.line([(2 * a, 2 * b) for a, b in twig], 200, max(round(wide / 2), 1))
    return np.asarray(image.reduce(2), np.float32) * np.float32(1 / 255)


def skin(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Skin of all tones, from near: fine lines and pores, mottling, sometimes hairs, sometimes a round view."""
    base = hsv(float(rng.uniform(0.01, 0.09)), float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.3, 0.95)))
    cell = float(np.exp(rng.uniform(np.log(3), np.log(22))))
    _, border, _ = cells(rng, height, width, cell, float(rng.uniform(0.6, 1.6)))
    lines = np.float32(rng.uniform(0, 0.08)) * (ramp(border, 0.0, 0.35) - np.float32(0.8))
    mottle = np.float32(rng.uniform(0.01, 0.06)) * fractal(rng, height, width, min(height, width) / 4, 4, 0.7)
    red = np.float32(rng.uniform(0.0, 0.06)) * fractal(rng, height, width, min(height, width) / 3, 3)
    rgb = times(base, 1 + lines + mottle + np.float32(0.01) * white(rng, height, width))
    rgb[..., 1:] *= (1 - red)[..., None]
    if rng.random() < 0.3:
        hairs = _thin_lines(rng, height, width, int(rng.integers(2, 40)), branching=False)
        rgb = over(rgb, hairs * np.float32(0.8), shade(base, float(rng.uniform(0.1, 0.4))))
    scene = Scene(
        kind="skin",
        name="skin",
        expect="an even tone and fine lines",
        rgb=rgb,
        defects={"lesion": 4, "growth": 2, "stain": 0.5, "scratch": 0.8, "crack": 0.4, "hole": 0.3},
        under=hsv(0.99, 0.7, 0.35),
    )
    return _round_view(rng, scene, 0.25)


def lining(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Moist tissue as a scope shows it: folds, fine vessels, glints, often a dark way ahead."""
    side = min(height, width)
    base = hsv(float(rng.uniform(0.97, 1.08)) % 1, float(rng.uniform(0.35, 0.75)), float(rng.uniform(0.5, 0.9)))
    folds = fractal(rng, height, width, side / float(rng.uniform(1.5, 5)), 3, float(rng.uniform(0.25, 0.5)))
    lean = np.clip(slope(rng, folds), -3, 3)
    field = 1 + np.float32(rng.uniform(0.04, 0.16)) * lean + np.float32(rng.uniform(0, 0.12)) * folds
    rgb = times(base, np.clip(field, 0.1, None) + np.float32(0.008) * white(rng, height, width))
    vessels = _thin_lines(rng, height, width, int(rng.integers(0, 9)), branching=True)
    rgb = over(rgb, vessels * np.float32(rng.uniform(0.1, 0.5)), shade(base, 0.55) * np.float32([1.1, 0.7, 0.7]))
    if rng.random() < 0.5:
        ahead = _from_middle(rng, height, width, float(rng.uniform(0.7, 1.4)))
        rgb = times(rgb, np.float32(0.08) + np.float32(0.92) * ramp(ahead, 0.0, float(rng.uniform(0.4, 1.2))))
    shine = np.clip(lean + np.float32(0.6) * smooth(rng, height, width, 5), 0, None)
    rgb = over(rgb, ramp(shine, float(rng.uniform(2.2, 3.4)), 3.6), np.ones(3, np.float32))
    scene = Scene(
        kind="lining",
        name="moist tissue",
        expect="smooth folds of one colour",
        rgb=rgb,
        defects={"growth": 4, "lesion": 2, "stain": 0.5, "hole": 0.2, "uneven": 0.3},
        under=shade(base, 0.2),
    )
    return _round_view(rng, scene, 0.4)


def scan(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A grey slice or shadow picture: a body of a few regions on black, with grain or speckle."""
    near = _from_middle(rng, height, width, float(rng.uniform(0.7, 1.4)))
    wobble = smooth(rng, height, width, min(height, width) / float(rng.uniform(2, 5)))
    near = near + np.float32(rng.uniform(0.0, 0.1)) * wobble
    edge, tone = float(rng.uniform(0.6, 1.6)), float(rng.uniform(0.2, 0.6))
    field = np.full((height, width), tone, np.float32)
    for _ in range(int(rng.integers(1, 5))):
        region = smooth(rng, height, width, min(height, width) / float(rng.uniform(1.5, 8)))
        region = region + np.float32(rng.uniform(0, 2)) * (near - np.float32(edge / 2))
        step = ramp(region, 0.4, 0.4 + float(rng.choice([0.1, 0.8])))
        field = field + np.float32(rng.uniform(-0.3, 0.3)) * step
    if rng.random() < 0.5:
        field += np.float32(rng.uniform(0.2, 0.5)) * ramp(-np.abs(near - np.float32(edge - 0.05)), -0.06, 0.0)
    grain = smooth(rng, height, width, float(rng.uniform(1, 4)), float(rng.choice([1.0, 2.5])) * 2)
    speckled = rng.random() < 0.4
    strength = np.float32(rng.uniform(0.12, 0.35) if speckled else rng.uniform(0.01, 0.1))
    field = np.clip(field, 0.05, 1) * (1 + strength * np.clip(grain, -2, 3))
    cover = ramp(-near, -edge, -edge + float(rng.choice([0.02, 0.2])))
    rgb = np.repeat((field * cover + np.float32(0.01))[..., None], 3, axis=2)
    return Scene(
        kind="scan",
        name="scan",
        expect="regions of even tones",
        rgb=rgb,
        defects={"mass": 4, "lesion": 0.6, "hole": 0.5, "crack": 0.5, "inclusion": 0.5},
        under=np.full(3, 0.03, np.float32),
        body=cover > 0.6,
        grey=True,
    )


def leaf(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A leaf with veins that fills the view or lies on a ground; or the skin of fruit, with small dots."""
    fruit = rng.random() < 0.4
    hue = float(rng.uniform(0.0, 0.35) if fruit else rng.uniform(0.18, 0.38))
    base = hsv(hue, float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.3, 0.85)))
    field = 1 + np.float32(rng.uniform(0.02, 0.1)) * fractal(rng, height, width, height / 3, 4, 0.6)
    rgb = times(base, field + np.float32(0.01) * white(rng, height, width))
    if fruit:
        distance, _, value = cells(rng, height, width, float(rng.uniform(5, 14)))
        dots = ramp(np.float32(0.22) - distance, 0.0, 0.1) * ramp(value, 0.3, 0.5)
        rgb = over(rgb, dots * np.float32(rng.uniform(0.1, 0.6)), pick(rng, "pale", "wood"))
        ball = _from_middle(rng, height, width)
        rgb = times(rgb, np.clip(np.float32(1.2) - np.float32(0.5) * ball * ball, 0.25, None))
        edge = float(rng.uniform(0.75, 1.8))
        cover = ramp(-ball, -edge, -edge + 0.02)
    else:
        veins = _veins(rng, height, width)
        rgb = over(rgb, veins * np.float32(rng.uniform(0.3, 0.8)), shade(base, float(rng.choice([0.6, 1.5]))))
        rgb = times(rgb, 1 + np.float32(0.15) * np.clip(slope(rng, smooth(rng, height, width, 14) - 2 * veins), -2, 2))
        edge = float(rng.uniform(0.8, 2.2))
        cover = ramp(-_from_middle(rng, height, width, float(rng.uniform(0.5, 2))), -edge, -edge + 0.02)
    ground = pick(rng, "dark", "pale", "grey", "earth")
    return Scene(
        kind="fruit" if fruit else "leaf",
        name="fruit" if fruit else "leaf",
        expect="an even skin" if fruit else "even veins and colour",
        rgb=over(times(ground, 1 + np.float32(0.02) * white(rng, height, width)), cover, rgb),
        defects={
            "lesion": 3,
            "stain": 1.5,
            "hole": 1.2,
            "colour fault": 0.8,
            "scratch": 0.6,
            "chip": 0.6,
            "crack": 0.4,
        },
        under=ground,
        body=cover > 0.6,
    )


def _veins(rng: np.random.Generator, height: int, width: int) -> Field:
    """A leaf's middle rib and the veins on both its sides [H,W] in [0,1]."""

    def make(rows: int, columns: int) -> Field:
        image = Image.new("L", (columns * 2, rows * 2), 0)
        draw, middle, gap = ImageDraw.Draw(image), rows / 2, columns / float(rng.uniform(5, 14))
        draw.line([(0, 2 * middle), (2 * columns, 2 * middle)], 255, int(rng.integers(3, 9)))
        for at in range(-4, int(columns / gap) + 2):
            for side in (-1, 1):
                path = arc((at * gap, middle), side * 0.7, rows, side * float(rng.normal(-0.08, 0.02)), 8)
                draw.line([(2 * x, 2 * y) for x, y in path], 200, 3)
        picture = image.reduce(4).filter(ImageFilter.GaussianBlur(0.5))
        return resize(np.asarray(picture, np.float32) / np.float32(255), rows, columns)

    veins, _ = turned(rng, height, width, make, oblique=0.5)
    _, border, _ = cells(rng, height, width, float(rng.uniform(6, 14)))
    return np.clip(veins + np.float32(rng.uniform(0, 0.4)) * ramp(-border, -0.15, 0.0), 0, 1)
