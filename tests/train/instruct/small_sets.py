"""Small data sets on disk for these tests, and the command over them."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import console
from agvas_train.data.cli import app
from tools.instruct_server import VisionServer


def noise(seed: int, side: int = 48) -> np.ndarray:
    """An image [side,side,3] with a grain of its own."""
    return np.random.default_rng(seed).integers(90, 170, (side, side, 3), dtype=np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_small_set(root: Path, defects: int = 4, normals: int = 2) -> Path:
    """One category "part" in MVTec's layout; every image is different."""
    for number in range(defects):
        mask = np.zeros((48, 48), np.uint8)
        mask[10 : 14 + number, 20:30] = 255
        write_image(
            root / f"part/test/spot/{number:03d}.png", np.where(mask[..., None], 20, noise(number)).astype(np.uint8)
        )
        write_image(root / f"part/ground_truth/spot/{number:03d}_mask.png", mask)
    for number in range(normals):
        write_image(root / f"part/test/good/{number:03d}.png", noise(100 + number))
    return root


def agvas_data(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        console.run(app, [str(argument) for argument in arguments])
    return int(left.value.code or 0), out.getvalue(), err.getvalue()


def lines(file: Path) -> list[dict]:
    """The file's JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def instruct(root: Path, server: VisionServer, *options: object) -> tuple[int, str, str]:
    """Run `agvas-data instruct` with the server as endpoint and the folder `out` beside the set."""
    where = ("--endpoint", server.url, "--model", "eyes", "--backoff", 0)
    return agvas_data("instruct", root, "--out", root.parent / "out", *where, *options)
