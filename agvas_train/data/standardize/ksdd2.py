"""KolektorSDD2: train/ and test/, a mask <number>_GT.png beside every image, empty where there is no defect."""

from __future__ import annotations

from pathlib import Path

from agvas_runtime import console
from agvas_train.data.standardize.parts import ANOMALY, Found, Part
from agvas_train.data.standardize.search import find_folder, images_in

RULE = "every defective image of both phases, and as many normal ones drawn by the seed; one category"


def list_parts(source: Path, seed: int) -> Found:
    """The images of both phases. Raises InputError where this is no KSDD2."""
    root = find_folder(source, "KSDD2", "train", "test")
    found = Found()
    files = [path for phase in ("train", "test") for path in images_in(root / phase)]
    images = [path for path in files if not path.stem.endswith("_GT")]
    masks = {image: image.with_name(f"{image.stem}_GT.png") for image in images}
    for mask in set(files) - {*images, *masks.values()}:
        found.leave_out(mask, "it has no image")
    for image, mask in console.progress(masks.items(), "Reading masks", len(images)):
        if not mask.is_file():
            found.leave_out(image, f"it has no {mask.name}")
            continue
        part = Part("KSDD2", image.stem, image, mask, ANOMALY)
        truth = found.truth_of(part)
        if truth is not None:
            found.parts.append(part if truth.any() else Part("KSDD2", image.stem, image))
    return found
