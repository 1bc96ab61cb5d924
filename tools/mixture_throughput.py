"""How fast the mixture's samples are made, and in how much memory: over the miniatures, and over large sets.

The large sets name as many images as the public ones, but few of their files differ, and the page cache holds them:
what is measured is reading lists, decoding, painting masks and making views, not a disk. Every measurement is a process
of its own, on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from agvas_runtime import console  # noqa: E402
from agvas_runtime.bench.machine import describe_machine, git_commit  # noqa: E402
from tests.train.sets.miniatures import write_all  # noqa: E402
from tools.large_sets import LARGEST_PX, write_large  # noqa: E402
from tools.list_memory import holds, weighed  # noqa: E402

SPARE = 64 * 2**20
A_PIXEL = 16
"""Bytes for each pixel of the largest image: decoded, turned, resized, its masks."""
BATCHES = 2
"""Micro-batches of views: the examples, and the batch that is made of them."""


def measure(root: Path, preset: str, samples: int) -> dict[str, Any]:
    """Open the mixture and make so many samples of it, in this process."""
    import torch

    from agvas_train.checkpoint import load_checkpoint
    from agvas_train.data.mixture.draw import Mixture
    from agvas_train.data.mixture.opening import open_mixture
    from agvas_train.data.stream import TurnStream
    from agvas_train.model import PRESETS
    from agvas_train.options import make_config, read_options, recipe_path, with_data_root

    torch.set_num_threads(1)
    config = make_config(with_data_root(read_options(recipe_path("7b")), str(root)))
    embedded = load_checkpoint(REPOSITORY / "agvas_train" / "default")
    sizes = (config.vocabulary_size,) if preset == "tiny" else ()
    model = PRESETS[preset](*sizes)
    assert config.data is not None
    before, began = _reset_peak(), time.process_time()
    sets = open_mixture(config.data, config.mixture, lambda _: None)
    mixed = Mixture(sets, embedded.templates, config.mixture, seed=0, unreadable_limit=0)
    opened, opening_bytes, lists_bytes = time.process_time() - began, _peak() - before, _resident() - before
    micro = config.micro_batch or 1
    stream = TurnStream(
        mixed, config=model, prompter=embedded.prompter, batch_size=micro, micro_batch=micro, start=0, stop=1
    )
    before = _reset_peak()
    stream.batch(0)  # libraries are loaded at first use
    began, wall = time.process_time(), time.perf_counter()
    for step in range(1, 1 + samples // micro):
        stream.batch(step)
    seconds, made = time.process_time() - began, samples // micro * micro
    wall = time.perf_counter() - wall
    peak = _peak() - before
    began = time.process_time()
    for index in range(micro, micro + made):
        mixed.turn(index)
    view_bytes = 4 * 3 * (model.pixel_view.size**2 + model.semantic_view.size**2)
    return {
        "preset": preset,
        "sets": {name: len(each) for name, each in sets.items()},
        "open_s": opened,
        "opening_bytes": opening_bytes,
        "lists_bytes": lists_bytes,
        "samples": made,
        "micro_batch": micro,
        "samples_per_core_s": made / seconds,
        "samples_per_wall_s": made / wall,
        "decoded_per_core_s": made / (time.process_time() - began),
        "loading_bytes": peak,
        "loading_bound_bytes": SPARE + BATCHES * micro * view_bytes + A_PIXEL * LARGEST_PX,
    }


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _reset_peak() -> int:
    """Forget the highest resident memory so far; returns the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return _resident()


def _peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measured(root: Path, preset: str, samples: int) -> dict[str, Any]:
    """`measure` in a fresh process on one thread."""
    command = [sys.executable, __file__, "--measure", str(root), "--preset", preset, "--samples", str(samples)]
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads})
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prove(folder: Path, entries: int, samples: int) -> dict[str, Any]:
    """Write both kinds of sets below the folder, weigh the large ones' lists, measure at the views of both presets."""
    small, large = write_all(folder / "miniatures"), folder / "large"
    lists = weighed(large, write_large(large, entries))
    held = sum(each["held_bound_bytes"] for each in lists.values())
    opening = SPARE + held + max(each["opening_bound_bytes"] for each in lists.values())
    report: dict[str, Any] = {"lists": lists, "opening_bound_bytes": opening}
    for name, root in (("miniatures", small), ("large", large)):
        report[name] = [measured(root, preset, samples) for preset in ("tiny", "7b")]
    report["holds"] = all(map(holds, lists.values())) and all(
        each["loading_bytes"] <= each["loading_bound_bytes"] and each["opening_bytes"] <= opening
        for each in report["miniatures"] + report["large"]
    )
    return report


def main() -> None:
    """Measure, write the JSON; exit 1 where more memory was held than is stated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000, help="images that the large lists name")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--preset", default="7b", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.preset, options.samples)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = prove(Path(folder), options.entries, options.samples)
    name = f"{date.today()}-{git_commit(REPOSITORY) or 'unknown'}-mixture.json"
    out = options.out or REPOSITORY / "benchmarks" / "full" / name
    out.write_text(json.dumps({"machine": describe_machine(), **report}, indent=1) + "\n", encoding="utf-8")
    console.print_json(report)
    sys.exit(0 if report["holds"] else 1)


if __name__ == "__main__":
    main()
