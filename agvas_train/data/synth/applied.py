"""A stroke of paint on a surface, where somebody who sees the picture would find it, and what they would mark."""

from dataclasses import dataclass, replace

import numpy as np

from agvas_train.data.synth.camera import Camera
from agvas_train.data.synth.colours import LUMA, colour_word, largest, over
from agvas_train.data.synth.fields import Field
from agvas_train.data.synth.notes import SynthConfig
from agvas_train.data.synth.paint import Stroke
from agvas_train.data.synth.scene import Mask, Scene
from agvas_train.data.synth.visible import bends, filled, stands_out


@dataclass
class Painted:
    """A defect on the surface, before the camera."""

    kind: str
    looks: tuple[str, ...]
    mask: Mask
    """bool [h,w] of the rendered size."""


def applied(
    scene: Scene, clean: Field, stroke: Stroke, config: SynthConfig, camera: Camera, most: float
) -> Painted | None:
    """Paint the stroke on the scene if the camera shows it there; what counts as the defect, `most` pixels at most.

    Of a stroke of several specks, those are painted that each would be found.
    """
    window = stroke.shape.window
    base, alpha = scene.rgb[window], stroke.shape.alpha
    if scene.body is not None and not stroke.beyond:
        alpha = alpha * scene.body[window]
    target = stroke.target
    if scene.grey:
        target = np.repeat((target @ LUMA)[..., None], 3, axis=2)
    least = config.min_visibility / min(camera.contrast, 1.0)
    out, change, hit = _over(base, alpha, target, config)
    looks, scattered = stroke.looks, len(stroke.specks) > 1
    if scattered:
        found, count = np.zeros_like(alpha), 0
        for speck in stroke.specks:
            at = _within(speck.window, window)
            own = hit[at] & (speck.alpha > config.mask_alpha)
            if own.any() and stands_out(scene, speck.window, own, out[at], least, camera.noise_level, clean):
                np.maximum(found[at], speck.alpha, out=found[at])
                count += 1
        looks = looks if count > 1 else ()  # one alone is not scattered
        out, change, hit = _over(base, np.minimum(alpha, found), target, config)
    area = int(hit.sum())
    if area < 4 or area > most:
        return None
    seen = float(change[hit].mean())
    if seen < (max(least, camera.noise_level) if stroke.structural else least):
        return None
    known = stroke.structural or scattered or (stroke.bent and bends(scene, window, hit, out))
    if not (known or stands_out(scene, window, hit, out, least, camera.noise_level, clean)):
        return None
    shown, hidden = out[hit].mean(axis=0), base[hit].mean(axis=0)
    tone = float((shown - hidden) @ LUMA)
    look: tuple[str, ...] = ()
    before, after = colour_word(hidden), colour_word(shown)
    if abs(tone) > 0.4 * seen or abs(tone) > 0.05:
        look = ("dark",) if tone < 0 else ("bright",)
    if not scene.grey and after != before and "grey" not in after and after not in ("black", "white"):
        look = (after,)
    scene.rgb[window] = out
    mask = np.zeros(scene.size, np.bool_)
    mask[window] = hit
    return Painted("", look + looks, mask)


def _over(base: Field, alpha: Field, target: Field, config: SynthConfig) -> tuple[Field, Field, Mask]:
    """The window [h,w,3] with paint over it, how much that changes each pixel, and which pixels are the defect's."""
    out = over(base, alpha, target)
    np.clip(out, 0.0, 1.0, out=out)
    change = largest(np.abs(out - base))
    return out, change, (alpha > config.mask_alpha) & (change > np.float32(0.5 * config.min_visibility))


def _within(inner: tuple[slice, slice], outer: tuple[slice, slice]) -> tuple[slice, slice]:
    """A window of the picture as one of another window."""
    rows, columns = (
        slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(inner, outer, strict=True)
    )
    return rows, columns


def as_marked(scene: Scene, clean: Field, painted: list[Painted], config: SynthConfig) -> list[Painted]:
    """The defects less the pixels that a later one turned back to the clean surface, their narrow gaps filled."""
    if len(painted) > 1:
        changed = largest(np.abs(scene.rgb - clean)) > np.float32(0.5 * config.min_visibility)
        painted = [replace(item, mask=item.mask & changed) for item in painted]
    return [replace(item, mask=filled(item.mask)) for item in painted if int(item.mask.sum()) >= 4]
