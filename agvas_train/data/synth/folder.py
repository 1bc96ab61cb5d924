"""A folder of synthetic samples in MVTec's layout, with meta.json and captions.jsonl; whole or not at all."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from agvas_runtime.errors import InputError
from agvas_runtime.files import whole_folder
from agvas_train.data.synth.compose import generate
from agvas_train.data.synth.notes import Sample, SynthConfig


class FolderError(Exception):
    """The folder cannot be written; the message says why in one line."""


def specie(sample: Sample) -> str:
    """Name of the sample's folder: "good", the kind of its defects, or "combined"."""
    kinds = {note.kind for note in sample.defects}
    if not kinds:
        return "good"
    return kinds.pop().replace(" ", "_") if len(kinds) == 1 else "combined"


def _write_sample(root: Path, sample: Sample, name: str, number: int) -> dict[str, object]:
    """Write one sample below the root; its record for meta.json."""
    category = sample.surface.kind
    image_path = Path(category) / "test" / name / f"{number:03d}.png"
    (root / image_path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.image).save(root / image_path)
    mask_path: Path | None = None
    if sample.defects:
        mask_path = Path(category) / "ground_truth" / name / f"{number:03d}_mask.png"
        (root / mask_path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.mask.astype(np.uint8) * 255).save(root / mask_path)
    return {
        "img_path": image_path.as_posix(),
        "mask_path": mask_path.as_posix() if mask_path else "",
        "cls_name": category,
        "specie_name": name,
        "anomaly": int(bool(sample.defects)),
    }


def _fill(root: Path, count: int, seed: int, config: SynthConfig, step: Callable[[], None]) -> dict[str, int]:
    numbers: Counter[tuple[str, str]] = Counter()
    test: dict[str, list[dict[str, object]]] = {}
    with (root / "captions.jsonl").open("w", encoding="utf-8") as captions:
        for index in range(count):
            sample = generate(seed, index, config)
            key = (sample.surface.kind, specie(sample))
            record = _write_sample(root, sample, key[1], numbers[key])
            numbers[key] += 1
            test.setdefault(key[0], []).append(record)
            line = {"image": record["img_path"], "mask": record["mask_path"], "category": sample.surface.name}
            captions.write(json.dumps(line | asdict(sample.caption)) + "\n")
            step()
    meta = {"train": {name: [] for name in sorted(test)}, "test": {name: test[name] for name in sorted(test)}}
    (root / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    good = sum(number for (_, name), number in numbers.items() if name == "good")
    return {"images": count, "normal": good, "defective": count - good, "categories": len(test)}


def write_folder(
    out: Path, count: int, seed: int, config: SynthConfig, step: Callable[[], None] = lambda: None
) -> dict[str, int]:
    """Write `count` samples of stream `seed` to the new or empty folder `out`; how many of what was written.

    The folder is made beside its final place and renamed at the end: a run that Ctrl-C or SIGTERM ends leaves nothing,
    and what a killed one leaves goes with the next. `step` is called after each image. Raises FolderError when `out`
    cannot be used, EngineError when the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderError(f"{out}: already there and not an empty folder")
    try:
        with whole_folder(out) as work:
            return _fill(work, count, seed, config, step)
    except InputError as error:
        raise FolderError(str(error)) from error
