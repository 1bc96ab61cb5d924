"""KolektorSDD2: train/ and test/, a mask <number>_GT.png beside every image, empty where there is no defect."""

from __future__ import annotations

from pathlib import Path

from agvas_runtime import console
from agvas_train.data.standardize.parts import ANOMALY, Found, Part, balanced, find_folder, images_in, truth_of

RULE = "every defective image of both phases, and as many normal ones drawn by the seed; one category"


def list_parts(source: Path, seed: int) -> Found:
    """The images of both phases. Raises InputError where this is no KSDD2, or a mask cannot be read."""
    root = find_folder(source, "KSDD2", "train", "test")
    found = Found()
    files = [path for phase in ("train", "test") for path in images_in(root / phase)]
    images = [path for path in files if not path.stem.endswith("_GT")]
    for image in console.progress(images, "Reading masks", len(images)):
        mask = image.with_name(f"{image.stem}_GT.png")
        if not mask.is_file():
            found.left_out[str(image)] = f"it has no {mask.name}"
            continue
        part = Part("KSDD2", image.stem, image, mask, ANOMALY)
        found.parts.append(part if truth_of(part).any() else Part("KSDD2", image.stem, image))
    found.parts = balanced(found.parts, seed)
    return found
