"""One sample from its seed: surface, light, defects that are really visible, camera, notes."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agvas_train.data.synth.applied import Painted, applied, as_marked
from agvas_train.data.synth.camera import Camera
from agvas_train.data.synth.captions import caption
from agvas_train.data.synth.colours import colour_word
from agvas_train.data.synth.defects import EVERYWHERE, PAINTERS
from agvas_train.data.synth.defects import HELD_OUT as HELD_OUT_DEFECTS
from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.notes import DefectNote, Families, Sample, SurfaceNote, SynthConfig, place_word, size_word
from agvas_train.data.synth.scene import Mask, Scene, light
from agvas_train.data.synth.surfaces import HELD_OUT as HELD_OUT_SURFACES
from agvas_train.data.synth.surfaces import SURFACES

T = TypeVar("T", bound=np.generic)

DEFAULT = SynthConfig()
ORIENTATIONS = 8
"""Four quarter turns, each mirrored or not."""
LARGEST = 0.4
"""Share of a picture that its defects cover at most, all together; what covers most of it is the surface."""


@dataclass
class Render:
    """A sample before the camera: the clean and the defective surface and what was painted."""

    scene: Scene
    clean: Field
    """float32 [h,w,3]."""
    painted: list[Painted]
    camera: Camera
    size: tuple[int, int]
    """H, W of the final image."""


def _draw_size(rng: np.random.Generator, config: SynthConfig) -> tuple[int, int]:
    low, high = config.usual_sides if rng.random() < 0.85 else (config.min_side, config.max_side)
    side = int(rng.integers(max(low, config.min_side), min(high, config.max_side) + 1))
    if rng.random() < config.square_share:
        return side, side
    other = int(np.clip(side * rng.uniform(0.5, 1.0), config.min_side, config.max_side))
    return (side, other) if rng.random() < 0.5 else (other, side)


def _drawn(held_out: bool, config: SynthConfig) -> bool:
    return config.families is Families.ALL or held_out == (config.families is Families.HELD_OUT)


def _draw_scene(rng: np.random.Generator, height: int, width: int, config: SynthConfig) -> Scene:
    makers = [maker for maker in SURFACES if _drawn(maker in HELD_OUT_SURFACES, config)]
    weights = np.array([SURFACES[maker][0] for maker in makers])
    maker = makers[int(rng.choice(len(makers), p=weights / weights.sum()))]
    scene = maker(rng, height, width)
    light(rng, scene, SURFACES[maker][1])
    if rng.random() < config.grey_share:
        scene.make_grey()
    np.clip(scene.rgb, 0.0, 1.0, out=scene.rgb)
    return scene


def render(seed: int, index: int, config: SynthConfig = DEFAULT) -> Render:
    """Everything of sample `index` up to the camera; `generate` and the tests share it."""
    rng = np.random.Generator(np.random.SFC64([seed, index]))
    size = _draw_size(rng, config)
    zoom = float(rng.uniform(1.2, 2.0)) if rng.random() < config.zoom_share else 1.0
    height, width = max(int(size[0] / zoom), 64), max(int(size[1] / zoom), 64)
    scene = _draw_scene(rng, height, width, config)
    camera = Camera.draw(rng, config, scene.harsh, scene.grey)
    clean, painted = scene.rgb.copy(), []
    if rng.random() >= config.normal_share:
        possible = scene.defects if scene.harsh else {**EVERYWHERE, **scene.defects}
        kinds = [kind for kind in possible if _drawn(kind in HELD_OUT_DEFECTS, config)]
        weights = np.array([possible[kind] for kind in kinds])
        wanted = min(int(rng.choice([1, 1, 1, 1, 1, 2, 2, 2, 3, 4])), config.max_defects)
        kind = str(rng.choice(kinds, p=weights / weights.sum()))
        for attempt in range(wanted * config.tries):
            if len(painted) == wanted:
                break
            if attempt and rng.random() < (0.25 if not painted else 0.5):
                kind = str(rng.choice(kinds, p=weights / weights.sum()))
            subtle = rng.random() < config.subtle_share
            strength = float(rng.uniform(0.15, 0.45) if subtle else rng.uniform(0.45, 1.0))
            if attempt > 3 and not painted:
                strength = float(rng.uniform(0.8, 1.0))  # little can be seen on this surface
            stroke = PAINTERS[kind](rng, scene, strength)
            most = LARGEST * height * width - sum(int(item.mask.sum()) for item in painted)
            done = None if stroke is None else applied(scene, clean, stroke, config, camera, most)
            if done is not None:
                painted.append(replace(done, kind=kind))
    painted = as_marked(scene, clean, painted, config)
    return Render(scene, clean, painted, camera, size)


def _note(kind: str, looks: tuple[str, ...], mask: Mask) -> DefectNote:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    area = int(mask.sum())
    y = float(np.arange(mask.shape[0]) @ mask.sum(axis=1)) / area
    x = float(np.arange(mask.shape[1]) @ mask.sum(axis=0)) / area
    return DefectNote(
        kind=kind,
        look=looks,
        size=size_word(area, mask.size),
        place=place_word(x, y, mask.shape[1], mask.shape[0]),
        box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
        area_px=area,
    )


def _masks(drawn: Render) -> list[Mask]:
    """The defects' masks in the picture, bool [H,W]: empty for those that the camera hardly catches."""
    masks = [drawn.camera.outline(item.mask, drawn.size) for item in drawn.painted]
    return [mask if mask.sum() >= 4 else np.zeros_like(mask) for mask in masks]


def _colours(drawn: Render, image: NDArray[np.uint8], defects: Mask) -> tuple[str, ...]:
    """The word for the surface's colour in the picture, none for black and white scans."""
    if drawn.scene.harsh:
        return ()
    shown = ~defects
    if drawn.scene.body is not None:
        shown &= drawn.camera.outline(drawn.scene.body, drawn.size)
    picked = image[::3, ::3][shown[::3, ::3]]
    return (colour_word(picked.mean(axis=0, dtype=np.float32) / np.float32(255)),) if len(picked) else ()


@dataclass(frozen=True)
class Shot:
    """What the camera took of one sample, and what is known of it."""

    drawn: Render
    image: NDArray[np.uint8]
    found: tuple[tuple[Painted, Mask], ...]
    """The defects in the picture."""
    mask: Mask
    surface: SurfaceNote


def shoot(seed: int, index: int, config: SynthConfig = DEFAULT) -> Shot:
    """The picture of sample `index` of stream `seed`: what takes the time of making a sample."""
    drawn = render(seed, index, config)
    masks = _masks(drawn)
    if drawn.painted and not any(mask.any() for mask in masks):  # all beside the oblique view
        drawn = replace(drawn, camera=replace(drawn.camera, view=None))
        masks = _masks(drawn)
    scene = drawn.scene
    found = tuple((item, mask) for item, mask in zip(drawn.painted, masks, strict=True) if mask.any())
    mask = np.logical_or.reduce([mask for _, mask in found]) if found else np.zeros(drawn.size, np.bool_)
    image = drawn.camera.photograph(scene.rgb, drawn.size)
    grey = scene.grey or bool((image == image[..., :1]).all())
    return Shot(
        drawn, image, found, mask, SurfaceNote(scene.name, scene.kind, _colours(drawn, image, mask), scene.expect, grey)
    )


def describe(shot: Shot, seed: int, index: int, *, parts: bool = True, orientation: int = 0) -> Sample:
    """The sample of a shot in one of the eight ways to turn and mirror it; 0 is the way it was taken."""
    drawn, camera = shot.drawn, shot.drawn.camera
    masks = tuple(_oriented(mask, orientation) for _, mask in shot.found)
    notes = tuple(_note(item.kind, item.looks, mask) for (item, _), mask in zip(shot.found, masks, strict=True))
    named = {name: camera.outline(part, drawn.size) for name, part in drawn.scene.parts.items()} if parts else {}
    rng = np.random.Generator(np.random.SFC64([seed, index, 1]))
    return Sample(
        image=_oriented(shot.image, orientation),
        mask=_oriented(shot.mask, orientation),
        defects=notes,
        masks=masks,
        surface=shot.surface,
        parts={name: _oriented(part, orientation) for name, part in named.items()},
        caption=caption(rng, shot.surface, notes),
    )


def _oriented(picture: NDArray[T], orientation: int) -> NDArray[T]:
    """[H,W] or [H,W,3] turned by `orientation` % 4 quarters, and mirrored from 4 on."""
    turned = np.rot90(picture, orientation % 4)
    return np.ascontiguousarray(turned[:, ::-1] if orientation >= ORIENTATIONS // 2 else turned)


def generate(seed: int, index: int, config: SynthConfig = DEFAULT, *, parts: bool = True) -> Sample:
    """Sample `index` of stream `seed`: the same on every machine, in any order, in any process.

    Without `parts` the sample has none: their masks take time that most turns have no use for.
    """
    return describe(shoot(seed, index, config), seed, index, parts=parts)
