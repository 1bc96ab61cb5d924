"""`agvas-data instruct` against an endpoint that fails, killed and run again: no record lost, none twice.

Every tenth request or so goes wrong in one of six ways. At some requests the server kills the command with SIGKILL
instead of answering; half a line is added to its file then, as a power cut leaves it. Every record's answer must be
the one that was given for its own picture. With --ray the same through workers of Ray on this machine, into a JSON of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from agvas_runtime import console  # noqa: E402
from agvas_runtime.bench.machine import describe_machine, git_commit  # noqa: E402
from agvas_runtime.datasets import Item, load_dataset, load_mask  # noqa: E402
from agvas_runtime.frames import read_image  # noqa: E402
from agvas_train.data.instruct.ledger import RECORDS  # noqa: E402
from agvas_train.data.instruct.pictures import boxed, data_uri, jpeg  # noqa: E402
from tools.instruct_server import Body, Sent, VisionServer, answer_fields, completion, mark, tagged  # noqa: E402

SIDE, CATEGORIES, DISTINCT = 48, 10, 10
NORMAL = 2
"""Of the distinct images of a category."""
FAILING = 0.1


def make_set(root: Path, count: int) -> None:
    """A data set of so many images in MVTec's layout: in each category the same few files under many names."""
    rng = np.random.default_rng(0)
    for number in range(count):
        category, which = root / f"part_{number % CATEGORIES}", number // CATEGORIES % DISTINCT
        kind, name = ("good" if which < NORMAL else "spot"), f"{number // CATEGORIES:05d}"
        image = category / "test" / kind / f"{name}.png"
        mask = category / "ground_truth" / kind / f"{name}_mask.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        if number < CATEGORIES * DISTINCT:
            pixels = rng.integers(100, 160, (SIDE, SIDE, 3), dtype=np.uint8)
            truth = np.zeros((SIDE, SIDE), np.uint8)
            truth[10 + which : 20 + which, 5:15] = 255
            Image.fromarray(pixels if kind == "good" else np.where(truth[..., None], 20, pixels).astype(np.uint8)).save(
                image
            )
            Image.fromarray(truth).save(mask)
        else:
            for path in (image, mask):
                os.link(path.with_name(path.name.replace(name, f"{which:05d}", 1)), path)


class Trouble:
    """How the endpoint behaves: mostly well; kills the command at some requests."""

    def __init__(self, seed: int, kill_at: tuple[int, ...]) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.sent: Counter[str] = Counter()
        self._seed, self._kill_at = seed, kill_at

    def __call__(self, number: int, body: Body) -> Sent:
        """See Behaviour."""
        if number in self._kill_at and self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            return self._send("kill", Sent(drop=True))
        rng = random.Random(self._seed * 1_000_003 + number)
        if rng.random() >= FAILING:
            return self._send("good answer", tagged(answer_fields(body)))
        good = tagged(answer_fields(body)).body
        failures = {
            "HTTP 500": Sent(b"out of memory", 500),
            "HTTP 429": Sent(b'{"error": {"message": "slow down"}}', 429, {"Retry-After": "0"}),
            "garbage": Sent(b"\x00<html>busy</html>"),
            "half a reply": Sent(good[: len(good) // 2], missing=len(good) - len(good) // 2),
            "closed connection": Sent(drop=True),
            "wrong schema": completion('<RESPONSE_JSON>{"exists": "maybe"}</RESPONSE_JSON>'),
        }
        name = rng.choice(
            ["wrong schema"] if len(body["messages"]) < 3 and rng.random() < 0.3 else sorted(failures)[:-1]
        )
        return self._send(name, failures[name])

    def _send(self, name: str, sent: Sent) -> Sent:
        self.sent[name] += 1
        return sent


def prove(
    folder: Path, count: int, kill_at: tuple[int, ...], concurrency: int, seed: int = 1, ray_workers: int = 0
) -> dict[str, Any]:
    """Make a set in the folder, run the command until it ends well, and look at what it wrote."""
    root, out = folder / "set", folder / "out"
    make_set(root, count)
    trouble, runs = Trouble(seed, kill_at), []
    began = time.perf_counter()
    with VisionServer(trouble, keep=False) as server:
        command = [sys.executable, "-m", "agvas_train.data.cli", "instruct", str(root), "--out", str(out), "--json"]
        command += ["--endpoint", server.url, "--model", "scripted", "--retries", "8", "--backoff", "0"]
        command += ["--concurrency", str(concurrency)]
        command += ["--ray", "local", "--ray-workers", str(ray_workers)] if ray_workers else []
        for _ in range(len(kill_at) + 2):  # the last has nothing left to do
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            trouble.process = subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes)
            said, errors = (text.replace(str(folder), "...") for text in trouble.process.communicate())
            code = trouble.process.returncode
            runs.append({"exit": code, "lines": len(_lines(out)), "requests": server.count, "errors": errors[-500:]})
            if code == -signal.SIGKILL:
                with (out / RECORDS).open("ab") as records:
                    records.write(b'{"dataset": "set", "ima')
            else:
                runs[-1]["summary"] = json.loads(said) if code == 0 else said
    seconds = time.perf_counter() - began
    made = {"images": count, "ray_workers": ray_workers, "seconds": seconds}
    return {**made, "sent": dict(trouble.sent), "runs": runs, **check(root, out)}


def check(root: Path, out: Path) -> dict[str, int]:
    """How many images have no record, more than one, or one that was given for another picture."""
    records = [json.loads(line) for line in _lines(out)]
    names = Counter(record["image"] for record in records)
    items = {item.name: item for item in load_dataset(root).items}
    marks: dict[int, str] = {}
    confused = 0
    for record in records:
        item = items[record["image"]]
        inode = item.image.stat().st_ino
        if inode not in marks:
            marks[inode] = _mark_of(item)
        confused += re.findall(r"Part (\w+)", record["Expectation"]) != [marks[inode]]
    return {
        "records": len(records),
        "lost": len(items.keys() - names.keys()),
        "twice": sum(number > 1 for number in names.values()),
        "confused": confused,
    }


def _lines(out: Path) -> list[bytes]:
    """The whole lines of the records."""
    return (out / RECORDS).read_bytes().split(b"\n")[:-1] if (out / RECORDS).exists() else []


def _mark_of(item: Item) -> str:
    image = read_image(item.image)
    return mark(data_uri(jpeg(boxed(image, load_mask(item, image.shape[:2])))))


def main() -> None:
    """Run it, write the JSON; exit 1 where a record was lost, doubled or confused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ray", type=int, default=0, help="workers, each with --concurrency")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kill_at = (options.images * 35 // 100, options.images * 75 // 100)
    with tempfile.TemporaryDirectory() as folder:
        report = prove(Path(folder), options.images, kill_at, options.concurrency, options.seed, options.ray)
    name = f"{date.today()}-{git_commit(REPOSITORY) or 'unknown'}-instruct{'-ray' if options.ray else ''}.json"
    out = options.out or REPOSITORY / "benchmarks" / "full" / name
    out.write_text(json.dumps({"machine": describe_machine(), **report}, indent=1) + "\n", encoding="utf-8")
    console.print_json(report)
    exits = [run["exit"] for run in report["runs"]]
    good = exits == [-signal.SIGKILL, -signal.SIGKILL, 0, 0] and report["records"] == options.images
    sys.exit(0 if good and not report["lost"] + report["twice"] + report["confused"] else 1)


if __name__ == "__main__":
    main()
