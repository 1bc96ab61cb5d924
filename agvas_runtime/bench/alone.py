"""One contender in a process of its own: loading, the cold first frame, memory, energy.

Several in one process could not be told apart, and the second would find warm what the first had loaded. The process
reads its task from stdin and prints what it measured. Cold is the process; the model's files may still be in the
system's cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from agvas_runtime.bench.contenders import PLAIN, Contender
from agvas_runtime.bench.device_memory import DeviceMemory
from agvas_runtime.bench.energy import open_meter
from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.latency import Track, open_track
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines.records import Target
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.nvml import gpus, open_library

FRAMES = 20
ENERGY_S = 1.0
"""Counters of energy move every few tens of milliseconds: where there is one, frames go on for so long at least."""


def measure_alone(
    contender: Contender, frames: Sequence[Frame], threads: int | None, request: Request = Request()
) -> dict[str, Any]:
    """Measure a contender in a process of its own, which segments the given frames in turn, 20 or more.

    Returns:
        load_ms: opening it, the imports that this takes included.
        first_call_ms: the first frame.
        build_ms: how long its native engines took to build, as is recorded beside them; None where it has none.
        rss_before_bytes, rss_loaded_bytes, rss_peak_bytes: resident memory.
        device: see `DeviceMemory.report`.
        energy: source, joules_per_frame and watts_mean, see energy.py; None where nothing tells.

    Raises EngineError.
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
        done = subprocess.run([sys.executable, "-c", program()], input=json.dumps(task), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"{contender.name}: measuring it alone failed: {last}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def program() -> str:
    """The program of that process. It imports from where this one does: `-m` and `-c` alone look in the current folder
    first, where a user's json.py would be taken for Python's."""
    return f"import sys; sys.path[:] = {sys.path!r}; from agvas_runtime.bench.alone import main; main()"


def build_ms(bundle: Bundle, target: Target) -> float:
    """How long the native engines that this target loads took to build, as is recorded beside them.

    Raises InputError, EngineError, BundleError where they would not be loaded.
    """
    from agvas_runtime.engines.store import find_plan, plan_of

    return 1e3 * sum(find_plan(bundle, target, graph)[1].seconds for graph in plan_of(bundle).graphs)


def _measure(task: dict[str, Any]) -> dict[str, Any]:
    contender = Contender.of(task["engine"], Path(task["path"]) if task["path"] else None)
    engine = contender.engine.removesuffix(PLAIN)
    seen = [] if engine == "ort" else gpus(open_library())
    on_cpu = engine == "ort" or (engine not in OF_BUNDLES and not seen)  # PyTorch takes a GPU where there is one
    memory, before = DeviceMemory(seen, os.getpid()), _resident()
    request = Request(**{**task["request"], "mode": Mode(task["request"]["mode"])})
    frames = [Frame(Path(name).read_bytes()) for name in task["frames"]]
    begin = time.perf_counter()
    track = open_track(contender, task["threads"], request)
    load_ms = (time.perf_counter() - begin) * 1e3
    loaded = _resident()
    memory.look()
    first_call_ms = track.call(frames[0], keep=False)
    energy = _run(track, frames, memory, on_cpu)
    return {
        "load_ms": load_ms,
        "first_call_ms": first_call_ms,
        "build_ms": _build_ms(contender),
        "rss_before_bytes": before,
        "rss_loaded_bytes": loaded,
        "rss_peak_bytes": _peak(),
        "device": memory.report(),
        "energy": energy,
    }


def _run(track: Track, frames: Sequence[Frame], memory: DeviceMemory, on_cpu: bool) -> dict[str, Any] | None:
    """Segment frames, looking at memory after each; what they cost in energy, where anything tells.

    `on_cpu`: surely there, so that the processors' energy is the engine's. A GPU that is not recognised has none told.
    """
    used = memory.in_use()
    meter = open_meter(used.gpu if used else None) if used or on_cpu else None
    begin, joules, done = time.perf_counter(), None, 0
    while done < FRAMES or (joules is not None and time.perf_counter() - begin < ENERGY_S):
        track.call(frames[done % len(frames)], keep=False)
        memory.look()
        joules, done = meter.joules() if meter else None, done + 1
    if meter is None or not joules:
        return None
    seconds = time.perf_counter() - begin
    return {"source": meter.source, "joules_per_frame": joules / done, "watts_mean": joules / seconds}


def _build_ms(contender: Contender) -> float | None:
    if not contender.engine.startswith("tensorrt"):
        return None
    from agvas_runtime.engines.device import probe

    return build_ms(Bundle.open(contender.path or default_bundle_path()), Target.of(probe()))


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


def main() -> None:
    """What the process does."""
    try:
        print(json.dumps(_measure(json.load(sys.stdin))))
    except (InputError, EngineError) as error:
        sys.exit(str(error))
