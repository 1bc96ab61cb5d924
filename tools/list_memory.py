"""What the lists of the data sets take in memory, as Python and NumPy allocate it, beside what docs/data.md states."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from agvas_train.data.sets.adapter import Halves  # noqa: E402
from agvas_train.data.sets.registry import open_sets  # noqa: E402
from tools.large_sets import Lists  # noqa: E402

FIXED = 64 * 2**10
"""Bytes that any list may take beside its entries."""
HELD = {
    "ade20k": 64,
    "paco-lvis": 64,
    "refcoco": 128,
    "dtd-instruct": 64,
    "goodsad-instruct": 2048,
    "road": 256,
    "llava-150k": 32,
}
"""Bytes that a list takes for each entry once it is read, one of each kind: names of files, a COCO JSON, references and
theirs, records, records inside a document, anomaly images with masks, conversations."""
OPENING = {
    "ade20k": 512,
    "paco-lvis": 64,
    "refcoco": 1024,
    "dtd-instruct": 64,
    "goodsad-instruct": 2048,
    "road": 1024,
    "llava-150k": 64,
}
"""The same while it is read, beside twice its files."""


def weigh(root: Path) -> dict[str, dict[str, int]]:
    """Bytes that each set's lists take once they are read, and at most while they are."""
    found, kept = {}, []  # the halves, too, stay for as long as a run
    tracemalloc.start()
    for name, adapter in open_sets(root).items():
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        adapter.read_lists()
        if isinstance(adapter, Halves):
            kept += [adapter.half(anomalous=False), adapter.half(anomalous=True)]
        held, peak = tracemalloc.get_traced_memory()
        found[name] = {"held_bytes": held - before, "opening_bytes": peak - before}
    return found


def weighed(root: Path, lists: Mapping[str, Lists]) -> dict[str, dict[str, Any]]:
    """`weigh` in a fresh process, beside what is stated."""
    done = subprocess.run([sys.executable, __file__, str(root)], stdout=subprocess.PIPE, text=True, check=True)
    found = {}
    for name, taken in json.loads(done.stdout).items():
        entries, file_bytes = lists[name].entries, lists[name].file_bytes
        found[name] = {
            "entries": entries,
            "file_bytes": file_bytes,
            **taken,
            "held_bytes_an_entry": taken["held_bytes"] / entries,
            "held_bound_bytes": FIXED + HELD[name] * entries,
            "opening_bound_bytes": FIXED + 2 * file_bytes + OPENING[name] * entries,
        }
    return found


def holds(weight: Mapping[str, Any]) -> bool:
    """Whether a set's lists take no more than stated, once they are read and while they are."""
    held = weight["held_bytes"] <= weight["held_bound_bytes"]
    return bool(held and weight["opening_bytes"] <= weight["opening_bound_bytes"])


if __name__ == "__main__":
    print(json.dumps(weigh(Path(sys.argv[1]))))
