"""DAGM 2007: Class<n>/{Train,Test}/<number>.PNG; Label/<number>_label.PNG where there is a defect."""

from __future__ import annotations

import re
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_train.data.standardize.parts import ANOMALY, Found, Part, balanced, images_in, places

RULE = "every defective image of both phases, and of each class as many normal ones drawn by the seed"


def list_parts(source: Path, seed: int) -> Found:
    """The images of all classes that are there. Raises InputError where this is no DAGM 2007."""
    found = Found()
    phases = [place for place in places(source) if _class_of(place) and (place / "Label").is_dir()]
    if not phases:
        raise InputError(f"{source}: found no Class<n>/Train/Label, expected DAGM 2007's original download")
    for phase in phases:
        category, labels = _class_of(phase), {path.stem: path for path in images_in(phase / "Label")}
        for image in images_in(phase):
            mask, stem = labels.pop(f"{image.stem}_label", None), f"{phase.name}_{image.stem}"
            found.parts.append(Part(category, stem, image, mask, ANOMALY) if mask else Part(category, stem, image))
        found.left_out |= {str(path): f"it has no image in {phase.name}" for path in labels.values()}
    found.parts = balanced(found.parts, seed)
    return found


def _class_of(phase: Path) -> str:
    """The class that a phase's folder belongs to; "" where it is no such folder."""
    named = re.fullmatch(r"Class\d+", phase.resolve().parent.name)
    return named.group() if named and phase.name in ("Train", "Test") else ""
