"""Tiny files of every kind that the miniatures are made of. Images are 12 wide and 8 high unless said otherwise."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 8, 12
SQUARE = [[2, 1, 6, 1, 6, 5, 2, 5]]
"""A COCO polygon: rows 1 to 4, columns 2 to 5."""
CORNER = [[0, 0, 3, 0, 3, 2, 0, 2]]
"""Rows 0 and 1, columns 0 to 2."""


def picture(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """An image whose pixels depend on its name alone."""
    rng = np.random.default_rng(sum(path.name.encode()))
    return array(path, rng.integers(0, 256, (height, width, 3), np.uint8))


def array(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


def document(path: Path, value: object) -> Path:
    return text(path, json.dumps(value, ensure_ascii=False))


def bands(*ids: int, rest: int) -> np.ndarray:
    """Two rows of each id, then the rest."""
    labels = np.full((HEIGHT, WIDTH), rest, np.uint8)
    for place, value in enumerate(ids):
        labels[2 * place : 2 * place + 2] = value
    return labels


def runs(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths, counted pixel by pixel."""
    counts, inside = [0], False
    for value in mask.ravel(order="F"):
        if value != inside:
            counts.append(0)
            inside = not inside
        counts[-1] += 1
    return counts


def box(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask
