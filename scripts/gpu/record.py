"""Figures that survive: one JSON a preset and GPU, written after every step, with machine, versions and commit.

What made a step stands in it, since several processes may fill one file; the whole record is of the first of them. A
step that fails leaves its error as text and the next one runs; a step that is there already is not run again.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import transformers

from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.errors import InputError

UNUSABLE = 3
"""Exit code where an error left the device unusable for this process: the remaining steps need a new one."""
CUT_OFF = "did not end in the time it had"


class Record:
    """The JSON of one run.

    Args:
        path: is read where it exists: its steps are not repeated.
        seconds: wall-clock budget; steps that need more than is left are put off.
        by: what belongs to the steps of this process.
        about: what belongs to all steps.

    Raises InputError where the file there is about something else, or a file beside it of another GPU.
    """

    def __init__(self, path: Path, seconds: float, by: dict[str, Any] | None = None, **about: Any) -> None:
        self.path, self.end, self.environment = path, time.monotonic() + seconds, environment()
        self.by = by or {}
        self.found: dict[str, Any] = {**about, **self.environment, "steps": {}}
        if path.is_file():
            self.found = json.loads(path.read_text())
            for key, value in about.items():
                expect(path, key, self.found.get(key), value)
        for other in sorted(path.parent.glob("*.json")):
            there = json.loads(other.read_text())
            if "steps" in there:
                expect(other, "gpu", gpu_name(there), gpu_name(self.environment), "folder")
        self.write()

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.end - time.monotonic()

    def done(self, step: str) -> bool:
        """Whether a step is there, with figures or with its error; one that lost the device gets a second try.

        One that was cut off has neither, however often.
        """
        found = self.found["steps"].get(step)
        if found is None or "put_off" in found or found.get("error") == CUT_OFF:
            return False
        return not found.get("lost_device") or found["tries"] > 1

    def tries(self, step: str) -> int:
        """How often a step was begun."""
        return self.found["steps"].get(step, {}).get("tries", 0)

    def made(self) -> dict[str, Any]:
        """What a step that begins now is made by, and when, beside how much else."""
        kept = {key: self.environment[key] for key in ("commit", "scripts")}
        load = round(os.getloadavg()[0], 2)
        return {"date": now(), **kept, "load_average": load, "gpu": gpu_name(self.environment), **self.by}

    def write(self) -> None:
        """Write the file whole, never half."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)

    def run(self, step: str, needs: float, measure: Callable[[dict[str, Any]], None]) -> bool:
        """Run a step that needs about so many seconds; it fills a dictionary that is kept even if it fails halfway.

        Returns whether it was run without an error, now or before. Ends the process where the device is unusable.
        """
        if self.done(step):
            return "error" not in self.found["steps"][step]
        found: dict[str, Any] = {"tries": self.tries(step)}
        self.found["steps"][step] = found
        if self.left < needs:
            found["put_off"] = f"{self.left:.0f} s left, needs about {needs:.0f}"
            self.write()
            print(f"{step}: put off, {found['put_off']}", flush=True)
            return False
        found |= {"made": self.made(), "error": CUT_OFF, "tries": found["tries"] + 1}  # what a killed process leaves
        self.write()
        began = time.monotonic()
        try:
            measure(found)
            synchronize()
            del found["error"]
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"[:2000]
            found["traceback"] = traceback.format_exc().splitlines()[-16:]
        found["seconds"] = round(time.monotonic() - began, 2)
        broken = "error" in found and not usable()
        if broken:
            found["lost_device"] = True
        self.write()
        print(f"{step}: {found['seconds']} s, {self.left:.0f} left; {found.get('error', 'done')[:300]}", flush=True)
        if broken:
            sys.exit(UNUSABLE)
        return "error" not in found


def environment() -> dict[str, Any]:
    """Machine, GPU, versions, commit, hash of the scripts, date."""
    found: dict[str, Any] = {
        "date": now(),
        "commit": os.environ.get("AGVAS_COMMIT") or git_commit(Path(__file__).parent),
        "scripts": scripts_hash(Path(__file__).parent),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
    }
    try:
        found["machine"] = describe_machine()
    except Exception as error:
        found["machine"] = {"error": str(error)}
    if torch.cuda.is_available():
        about = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": about.name,
            "memory_bytes": about.total_memory,
            "multiprocessors": about.multi_processor_count,
            "capability": f"{about.major}.{about.minor}",
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def gpu_name(environment: dict[str, Any]) -> str | None:
    """As a file's whole record says; None without one."""
    return environment.get("gpu", {}).get("name")


def expect(path: Path, what: str, there: object, here: object, instead: str = "file") -> None:
    """Raises InputError where a file is of another kind than what would be put into it, or beside it."""
    if there != here:
        raise InputError(f"{path}: {what}: found {there}, expected {here}; give another {instead}")


def now() -> str:
    """The date and time, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def scripts_hash(folder: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 over names and bytes of a folder's scripts, in the order of names."""
    digest = sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".py", ".sh"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def synchronize() -> None:
    """Wait for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def usable() -> bool:
    """Whether the device still does as it is told; some errors stay for a process's lifetime."""
    try:
        synchronize()
        if torch.cuda.is_available():
            (torch.ones(8, device="cuda") + 1).sum().item()
    except Exception:
        return False
    return True
