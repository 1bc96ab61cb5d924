"""Two surfaces side by side, with a joint that is no defect."""

from dataclasses import replace

import numpy as np

from agvas_train.data.synth import abstract, metal, mineral, organic, textile
from agvas_train.data.synth.colours import over, pick, times
from agvas_train.data.synth.fields import Field, ramp, smooth
from agvas_train.data.synth.scene import Scene

_SIDES = (
    metal.brushed,
    metal.rolled,
    mineral.asphalt,
    textile.woven,
    textile.felt,
    organic.wood,
    organic.leather,
    organic.plain,
    organic.plain,
    abstract.abstract,
)


def _beyond(rng: np.random.Generator, height: int, width: int) -> Field:
    """How far each pixel [H,W] lies beyond the joint, pixels: a line, an arc or a wavy line across the picture."""
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(rng.uniform(0.2, 0.8) * height)
    x = np.arange(width, dtype=np.float32)[None] - np.float32(rng.uniform(0.2, 0.8) * width)
    turn = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])) + float(rng.choice([0.0, np.pi]))
    form, side = rng.random(), min(height, width)
    if form < 0.25:
        radius = float(rng.uniform(0.3, 2.0)) * side
        y, x = y - np.float32(radius * np.sin(turn)), x - np.float32(radius * np.cos(turn))
        return np.sqrt(y * y + x * x) - np.float32(radius)
    away = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    if form < 0.4:
        away = away + np.float32(side * rng.uniform(0.005, 0.04)) * smooth(rng, height, width, side / rng.uniform(2, 8))
    return np.broadcast_to(away, (height, width))


def _joint(rng: np.random.Generator, rgb: Field, away: Field) -> Field:
    """The picture with what lies along the joint: a groove with one lit edge, the upper sheet's shadow, or nothing."""
    wide = float(np.exp(rng.uniform(np.log(1.2), np.log(10))))
    if rng.random() < 0.4:
        groove = ramp(-np.abs(away), -wide / 2 - 0.5, -wide / 2 + 0.5)
        rgb = over(rgb, groove, pick(rng, "dark", "dark", "grey", "pale"))
        edge = ramp(-np.abs(away - np.float32(wide / 2 + 1)), -1.2, 0.0)
        return times(rgb, 1 + np.float32(rng.uniform(-0.3, 0.6)) * edge)
    if rng.random() < 0.6:
        shadow = ramp(-away, -wide * 1.5, 0.0) * (away > 0)
        return times(rgb, 1 - np.float32(rng.uniform(0.2, 0.7)) * shadow)
    return rgb


def joined(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Two different surfaces that meet; defects lie on both, or on one of them alone."""
    one, other = (_SIDES[int(at)](rng, height, width) for at in rng.choice(len(_SIDES), 2, replace=False))
    away = _beyond(rng, height, width)
    rgb = _joint(rng, over(one.rgb, ramp(away, -0.5, 0.5), other.rgb), away)
    shared = {kind: weight for kind, weight in one.defects.items() if kind in other.defects}
    alone = rng.random() < 0.4 and bool((away < -4).any())
    return replace(
        one,
        kind="joined",
        name="joint of two surfaces",
        expect="two even surfaces and an even joint",
        rgb=rgb,
        defects=one.defects if alone else shared,
        body=away < 0 if alone else None,
        parts={"upper surface": away > 0},
    )
