"""One set from its download to its place in the paper's tree, with meta.json and standardize.json, which says how."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from agvas_runtime import __version__, console
from agvas_runtime.errors import InputError
from agvas_train.data.sets.registry import REGISTRY
from agvas_train.data.standardize.formats import FORMATS
from agvas_train.data.standardize.write import check_free, whole_folder, write_document, write_parts

RECORD = "standardize.json"


def standardize(name: str, source: Path, root: Path, seed: int = 0) -> dict[str, Any]:
    """Write a set to its place below the root; the same source and seed give the same bytes.

    Args:
        name: one of FORMATS.
        source: the folder of the original download, or one up to three levels above.
        root: the root of the paper's tree.
        seed: which normal images are chosen, and where images are cut.

    Returns:
        What standardize.json says but for the files, and the "place".

    Raises:
        InputError: the name is none of a set, the source is not its download, something is at its place already.
        EngineError: a file cannot be written; nothing is left behind.
    """
    if name not in FORMATS:
        raise InputError(f"{name!r}: no such test set, expected one of {', '.join(FORMATS)}")
    if not source.is_dir():
        raise InputError(f"{source}: found no folder, expected the original download, unpacked")
    known, place = FORMATS[name], root / REGISTRY[name].paths[0][0]
    check_free(place)
    found = known.list_parts(source, seed)
    if not any(part.mask for part in found.parts):
        raise InputError(f"{source}: found no defective image, expected {name}'s original download")
    with whole_folder(place) as work:
        meta: dict[str, dict[str, list[dict[str, Any]]]] = {"train": {}, "test": {}}
        counts: Counter[str] = Counter(images=0, normal=0, anomalous=0, train=0)
        files: dict[str, dict[str, Any]] = {}
        for part, record, lines in console.progress(write_parts(work, found, source), name, len(found.parts)):
            for phase in meta:
                meta[phase].setdefault(part.category, [])
            meta[part.phase][part.category].append(record)
            files |= lines
            counts.update(_counted(part.phase, part.mask is not None))
        report = {
            "schema": 1,
            "agvas": __version__,
            "set": name,
            "page": REGISTRY[name].page,
            "source": source.resolve().name,
            "seed": seed,
            "rule": known.rule,
            "counts": {**counts, "categories": len(meta["test"])},
            "paper": {"images": known.paper[0], "anomalous": known.paper[1]},
            "left_out": {Path(path).relative_to(source).as_posix(): why for path, why in found.left_out.items()},
        }
        write_document(work / RECORD, {**report, "files": files})
        write_document(work / "meta.json", meta)
    return {**report, "place": str(place)}


def _counted(phase: str, anomalous: bool) -> list[str]:
    return ["train"] if phase == "train" else ["images", "anomalous" if anomalous else "normal"]
