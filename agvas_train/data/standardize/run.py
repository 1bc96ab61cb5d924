"""One set from its download to its place in the paper's tree, with meta.json and standardize.json, which says how."""

from __future__ import annotations

import re
from collections import Counter
from operator import itemgetter
from pathlib import Path
from typing import Any

from agvas_runtime import __version__, console
from agvas_runtime.errors import InputError
from agvas_runtime.files import whole_folder
from agvas_train.data.sets.registry import REGISTRY
from agvas_train.data.standardize.formats import FORMATS
from agvas_train.data.standardize.parts import Found
from agvas_train.data.standardize.write import check_free, check_names, write_document, write_parts

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
        InputError: the name is none of a set, the source is not its download or holds nothing that can be read,
            something is at its place already.
        EngineError: a file cannot be written; nothing is left behind.
    """
    if name not in FORMATS:
        raise InputError(f"{name!r}: no such test set, expected one of {', '.join(FORMATS)}")
    if not source.is_dir():
        raise InputError(f"{source}: found no folder, expected the original download, unpacked")
    known, place = FORMATS[name], root / REGISTRY[name].paths[0][0]
    check_free(place)
    found = known.list_parts(source, seed)
    check_names(found.parts)
    none = f"{source}: found no defective image, expected {name}'s original download"
    if not (defective := sum(part.mask is not None for part in found.parts)):
        raise InputError(none)
    with whole_folder(place) as work:
        meta: dict[str, dict[str, list[dict[str, Any]]]] = {"train": {}, "test": {}}
        counts: Counter[str] = Counter(images=0, normal=0, anomalous=0, train=0)
        files: dict[str, dict[str, Any]] = {}
        parts = write_parts(work, found, source, seed if known.balanced else None)
        total = 2 * defective if known.balanced else len(found.parts)
        for part, record, lines in console.progress(parts, name, total):
            for phase in meta:
                meta[phase].setdefault(part.category, [])
            meta[part.phase][part.category].append(record)
            files |= lines
            counts.update(_counted(part.phase, part.mask is not None))
        if not counts["anomalous"]:
            path, why = next(iter(_left_out(found, source).items()))
            raise InputError(f"{none}; left out: {path}: {why}")
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
            "left_out": _left_out(found, source),
        }
        write_document(work / RECORD, {**report, "files": dict(sorted(files.items()))})
        write_document(work / "meta.json", {phase: _sorted(listed) for phase, listed in meta.items()})
    return {**report, "place": str(place)}


def _left_out(found: Found, source: Path) -> dict[str, str]:
    """What is not used and why, by the path below the source; no reason names the folders above it."""
    whys = {Path(path).relative_to(source).as_posix(): why for path, why in sorted(found.left_out.items())}
    above = re.compile(rf"(?<!\S){re.escape(str(source))}/")
    return {path: above.sub("", why) for path, why in whys.items()}


def _sorted(listed: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The records of a phase by category and path."""
    return {category: sorted(records, key=itemgetter("img_path")) for category, records in sorted(listed.items())}


def _counted(phase: str, anomalous: bool) -> list[str]:
    return ["train"] if phase == "train" else ["images", "anomalous" if anomalous else "normal"]
