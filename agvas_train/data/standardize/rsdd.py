"""RSDDs: long pictures of rails and their masks, cut into squares as wide as the rail."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_train.data.standardize.parts import GOOD, Found, Part, defective, ranked
from agvas_train.data.standardize.search import images_in, levels

CROPS = 2
"""Of a rail, with and without defect; 195 rails give about the 387 defective images that the paper's file lists."""
RULE = (
    f"of every rail up to {CROPS} squares that hold a defect and cut none, and up to {CROPS} that hold none, placed by "
    "the seed, apart where there is room; then as many normal ones as defective ones, drawn by the seed; one category"
)


def list_parts(source: Path, seed: int) -> Found:
    """Squares of every rail. Raises InputError where this is no RSDDs, or rails are there in several places."""
    found, rails = Found(), []
    for masks in _truths(source):
        images = _images_of(masks)
        prefix = re.sub(r"[^\w-]+", "_", masks.parent.resolve().name) + "_"
        listed = defective(images, masks, "RSDD", prefix=prefix)
        rails += listed.parts
        found.left_out |= listed.left_out
    for rail in console.progress(rails, "Cutting", len(rails)):
        truth = found.truth_of(rail)
        if truth is not None:
            found.parts += crops(rail, truth, seed)
    return found


def _truths(source: Path) -> list[Path]:
    """The folders of masks: of one set, so beside one another. Raises InputError."""
    truths = [path for level in levels(source) for path in level if _is_truth(path) and images_in(path)]
    if not truths:
        raise InputError(f"{source}: found no ground truth folder, expected RSDDs' Type-I and Type-II with GroundTruth")
    if len({path.parent.parent for path in truths}) > 1:
        names = ", ".join(path.relative_to(source).as_posix() for path in truths)
        raise InputError(f"{source}: found {names}, expected the types' folders side by side: name the one around them")
    return truths


def crops(rail: Part, truth: NDArray[np.bool_], seed: int) -> list[Part]:
    """Squares of a rail with and without defect; `truth` is its mask, bool [H,W]."""
    across = int(np.argmin(truth.shape))
    side, counts = truth.shape[across], truth.sum(axis=across)
    held, uncut = windows(counts, side)
    whole = held.astype(bool) & uncut
    if held.any() and not whole.any():  # every defect is longer than a square
        whole = held == held.max()
    pieces = ((rail, whole, "defect"), (replace(rail, mask=None, kind=GOOD), held == 0, "normal"))
    return [part for piece, fit, what in pieces for part in _drawn(piece, fit, what, side, across, seed)]


def _drawn(rail: Part, fit: NDArray[np.bool_], what: str, side: int, across: int, seed: int) -> list[Part]:
    """Some of the squares whose first rows fit; each apart from those before it, where any is."""
    left = ranked(seed, np.flatnonzero(fit).tolist(), lambda start: f"{rail.stem} {what} {start}")
    chosen: list[int] = []
    while left and len(chosen) < CROPS:
        chosen.append(next((at for at in left if all(abs(at - other) >= side for other in chosen)), left[0]))
        left.remove(chosen[-1])
    chosen.sort()
    boxes = [(at, 0, at + side, side) if across == 0 else (0, at, side, at + side) for at in chosen]
    return [replace(rail, stem=f"{rail.stem}_{at:04d}", box=box) for at, box in zip(chosen, boxes, strict=True)]


def windows(counts: NDArray[np.int_], side: int) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """Of every window of `side` rows, by its first row: its defective pixels, and whether it cuts no defect.

    Args:
        counts: defective pixels of every row, int [L], L >= side.
        side: rows of a window.

    Returns:
        int and bool [L - side + 1].
    """
    sums = np.concatenate([[0], np.cumsum(counts)])
    held = sums[side:] - sums[:-side]
    filled = counts > 0
    cut = np.concatenate([[False], filled[1:] & filled[:-1], [False]])  # between a row and the one before it
    return held, ~cut[: len(held)] & ~cut[side:]


def _is_truth(folder: Path) -> bool:
    return re.sub("[^a-z]", "", folder.name.lower()) in ("groundtruth", "groundtruths", "gt")


def _images_of(masks: Path) -> Path:
    """The folder of the images: beside that of the masks, or around it."""
    beside = sorted(path for path in masks.parent.iterdir() if path.is_dir() and path != masks)
    for folder in (*beside, masks.parent):
        if images_in(folder):
            return folder
    raise InputError(f"{masks.parent}: found no images beside {masks.name}, expected those of the rails")
