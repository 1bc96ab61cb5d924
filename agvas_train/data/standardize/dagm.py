"""DAGM 2007: Class<n>/{Train,Test}/<number>.PNG; Label/<number>_label.PNG where there is a defect, Label/Labels.txt."""

from __future__ import annotations

import re
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_bytes
from agvas_train.data.standardize.parts import ANOMALY, Found, Part
from agvas_train.data.standardize.search import images_in, levels, only

RULE = "every defective image of both phases, and of each class as many normal ones drawn by the seed"
PHASES = ("Train", "Test")


def list_parts(source: Path, seed: int) -> Found:
    """The images of all classes that are there. Raises InputError where this is no DAGM 2007."""
    found, phases = Found(), _phases(source)
    if not any((phase / "Label").is_dir() for phase in phases):
        raise InputError(f"{source}: found no Class<n>/Train/Label, expected DAGM 2007's original download")
    for phase in phases:
        if (phase / "Label").is_dir():
            _list_phase(phase, found)
        else:
            found.leave_out(phase, "it has no Label")
    return found


def _phases(source: Path) -> list[Path]:
    """The phases' folders of all classes, wherever each was unpacked. Raises InputError where one is there twice."""
    classes = [path for level in levels(source) for path in level if _is_class(path)]
    for name in {path.name for path in classes}:
        only(source, [path for path in classes if path.name == name], name)
    return [path / phase for path in classes for phase in PHASES if (path / phase).is_dir()]


def _is_class(folder: Path) -> bool:
    return bool(re.fullmatch(r"Class\d+", folder.name)) and any((folder / phase).is_dir() for phase in PHASES)


def _list_phase(phase: Path, found: Found) -> None:
    """Add a phase's images. What Labels.txt calls defective and has no label is not taken for normal."""
    category, folder = phase.parent.name, phase / "Label"
    labels, named = {path.stem: path for path in images_in(folder)}, _named(folder / "Labels.txt")
    for image in images_in(phase):
        label, stem = f"{image.stem}_label", f"{phase.name}_{image.stem}"
        if mask := labels.pop(label, None):
            found.parts.append(Part(category, stem, image, mask, ANOMALY))
        elif label in named:
            found.leave_out(image, f"Labels.txt names {label}, which is not there")
        else:
            found.parts.append(Part(category, stem, image))
    for path in labels.values():
        found.leave_out(path, f"it has no image in {phase.name}")


def _named(file: Path) -> set[str]:
    """The labels that the list names, without their suffix; none where there is no list."""
    if not file.is_file():
        return set()
    words = read_bytes(file).decode("utf-8", "replace").split()
    return {Path(word).stem for word in words if Path(word).stem.endswith("_label")}
