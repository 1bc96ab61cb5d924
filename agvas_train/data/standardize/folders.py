"""MVTec-AD and BTAD: <category>/{train,test}/<kind>/ and ground_truth/<kind>/; good images are "good" or "ok"."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.paper import categories
from agvas_train.data.standardize.parts import ANOMALY, Found, Part, defective
from agvas_train.data.standardize.search import images_in, nearest, only

RULE = "every image of both phases of the fifteen categories; kinds of defects as they are"
BTAD_RULE = "every image of both phases; ok is good, ko is anomaly"
NORMAL = ("good", "ok")


def list_mvtec(source: Path, seed: int) -> Found:
    """The images of MVTec-AD's categories that are there. Raises InputError where there are none."""
    return _list_parts(source, "MVTec-AD", categories())


def list_btad(source: Path, seed: int) -> Found:
    """The images of BTAD's categories that are there. Raises InputError where there are none."""
    return _list_parts(source, "BTAD", ("01", "02", "03"))


def _list_parts(source: Path, what: str, known: Collection[str]) -> Found:
    found = Found()
    places = nearest(source, lambda place: any((place / name / "test").is_dir() for name in known))
    if not places:
        raise InputError(f"{source}: found no <category>/test, expected {what}'s original download")
    for category in sorted(path for path in only(source, places, what).iterdir() if (path / "test").is_dir()):
        if category.name not in known:
            found.leave_out(category, f"it is no category of {what}")
        elif not (category / "ground_truth").is_dir():
            found.leave_out(category, "it has no ground_truth")
        else:
            _list_category(category, found)
    return found


def _list_category(category: Path, found: Found) -> None:
    """Add the images of a category, and say which masks have none."""
    test, truth = category / "test", category / "ground_truth"
    kinds = {path.name for phase in (test, truth) for path in phase.iterdir() if path.is_dir()}
    for kind in sorted(name for name in kinds if not name.startswith(".")):
        if kind in NORMAL:
            found.parts += [Part(category.name, image.stem, image) for image in images_in(test / kind)]
        else:
            called = ANOMALY if kind == "ko" else kind
            listed = defective(test / kind, truth / kind, category.name, called)
            found.parts += listed.parts
            found.left_out |= listed.left_out
    train = [image for kind in NORMAL for image in images_in(category / "train" / kind)]
    found.parts += [Part(category.name, image.stem, image, phase="train") for image in train]
