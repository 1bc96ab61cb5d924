"""MVTec-AD and BTAD: <category>/{train,test}/<kind>/ and ground_truth/<kind>/; good images are "good" or "ok"."""

from __future__ import annotations

from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_train.data.standardize.parts import ANOMALY, Found, Part, defective, images_in, places

RULE = "every image of both phases; kinds of defects as they are"
BTAD_RULE = "every image of both phases; ok is good, ko is anomaly"
NORMAL = ("good", "ok")


def list_parts(source: Path, seed: int) -> Found:
    """The images of all categories that are there. Raises InputError where there are none."""
    found = Found()
    for category in _categories(source):
        name = category.resolve().name
        for kind in sorted(path for path in (category / "test").iterdir() if path.is_dir()):
            if kind.name in NORMAL:
                found.parts += [Part(name, image.stem, image) for image in images_in(kind)]
            else:
                called = ANOMALY if kind.name == "ko" else kind.name
                listed = defective(kind, category / "ground_truth" / kind.name, name, called)
                found.parts += listed.parts
                found.left_out |= listed.left_out
        train = [image for kind in NORMAL for image in images_in(category / "train" / kind)]
        found.parts += [Part(name, image.stem, image, phase="train") for image in train]
    return found


def _categories(source: Path) -> list[Path]:
    for place in places(source):
        inner = sorted(path for path in place.iterdir() if path.is_dir())
        if found := [path for path in inner if (path / "test").is_dir() and (path / "ground_truth").is_dir()]:
            return found
    raise InputError(f"{source}: found no <category>/test with ground_truth, expected the original download")
