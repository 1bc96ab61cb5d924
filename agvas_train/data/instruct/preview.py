"""What would be sent, as files to look at: the three pictures of an image, and the words around them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agvas_runtime import console
from agvas_runtime.files import write_whole
from agvas_train.data.instruct.gallery import NormalImages
from agvas_train.data.instruct.pipeline import prepare
from agvas_train.data.instruct.prompt import first_ask
from agvas_train.data.instruct.tasks import Task

FOLDER = "dry-run"


def write_preview(out: Path, tasks: Sequence[Task], normals: NormalImages, max_side: int) -> None:
    """Write NNNN_A.jpg, NNNN_B.jpg, NNNN_C.jpg and NNNN.json of each task to `out`/dry-run.

    Raises InputError for an image that cannot be read, EngineError where the files cannot be written.
    """
    for number, task in enumerate(console.progress(tasks, "Drawing"), 1):
        pictures, chosen = prepare(task, normals)
        names = [f"{number:04d}_{letter}.jpg" for letter in "ABC"]
        for name, encoded in zip(names, pictures.encoded(max_side), strict=True):
            write_whole(out / FOLDER / name, encoded)
        messages = first_ask(names, bool(task.item.anomalous))
        shown = {"image": task.item.name, "category": task.item.category, **chosen, "messages": messages}
        write_whole(out / FOLDER / f"{number:04d}.json", json.dumps(shown, indent=1).encode("ascii") + b"\n")
