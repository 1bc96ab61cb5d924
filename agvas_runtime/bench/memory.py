"""Memory of one contender, in a process of its own: several in one process could not be told apart.

The bench starts `python -m agvas_runtime.bench.memory`, which reads its task from stdin and prints what it measured.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.latency import Contender, open_track
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.modes import Mode, Request

FRAMES = 20


def measure_memory(
    contender: Contender, frames: Sequence[Frame], threads: int | None, request: Request = Request()
) -> dict[str, int]:
    """Resident memory in bytes: before loading, after loading, at its peak. Raises EngineError.

    The process segments 20 frames, the given ones in turn.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for index, frame in enumerate(frames[:FRAMES]):
            names.append(str(Path(folder) / str(index)))
            Path(names[-1]).write_bytes(frame.data)
        task = {
            "engine": contender.engine,
            "path": str(contender.path) if contender.path else None,
            "threads": threads,
            "frames": names,
            "request": asdict(request),
        }
        command = [sys.executable, "-m", "agvas_runtime.bench.memory"]
        done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{contender.name}: measuring memory failed: {last}")
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


def _measure(task: dict[str, Any]) -> dict[str, int]:
    before = _resident()
    path = Path(task["path"]) if task["path"] else None
    request = Request(**{**task["request"], "mode": Mode(task["request"]["mode"])})
    track = open_track(Contender.of(task["engine"], path), task["threads"], request)
    loaded = _resident()
    frames = [Frame(Path(name).read_bytes()) for name in task["frames"]]
    for turn in range(FRAMES):
        track.call(frames[turn % len(frames)])
    return {"rss_before_bytes": before, "rss_loaded_bytes": loaded, "rss_peak_bytes": _peak()}


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    """Highest resident memory of this process; getrusage's figure would include the process that started it."""
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    try:
        print(json.dumps(_measure(json.load(sys.stdin))))
    except (InputError, EngineError) as error:
        sys.exit(str(error))
