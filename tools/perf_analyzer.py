"""Triton's own load generator against agvas's server, as docs/kserve.md says: `make proof-perf-analyzer`.

The program is that of NVIDIA's `tritonclient` 2.50, unmodified. It needs libb64 (apt-get install libb64-0d) and the
CUDA runtime's library, which the Makefile's environment brings; no GPU. Writes
benchmarks/full/<date>-<commit>-perf-analyzer.json with its tables and all that it printed.
"""

import argparse
import base64
import csv
import ctypes.util
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.demo.server_process import server_process

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = REPOSITORY / "agvas_runtime" / "demo" / "frames"
SIDE = 592
"""Pixels: a frame of 1,051,392 bytes, as in docs/serving.md."""
RUNS = {
    "one at a time": ["--concurrency-range", "1"],
    "four at a time": ["--concurrency-range", "4", "--async"],
    "as a stream": ["--concurrency-range", "1", "--streaming"],
}
SHOWN = ("Inferences/Second", "p50 latency", "p90 latency", "p99 latency", "Server Queue", "Server Compute Infer")


def main() -> None:
    """Run it, print its figures, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window-ms", type=int, default=5000, help="of a measurement, three of which must agree")
    parser.add_argument("--threads", type=int, default=1, help="of the engine")
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-perf-analyzer.json")
    arguments = parser.parse_args()
    program, environment = _program()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    usual = REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-perf-analyzer.json"
    runs = {}
    with tempfile.TemporaryDirectory() as name, server_process(["--threads", str(arguments.threads)]) as server:
        folder = Path(name)
        (folder / "frames.json").write_text(json.dumps({"data": _frames()}), encoding="utf-8")
        for title, options in RUNS.items():
            table = folder / "table.csv"
            command = [program, "-m", "agvas", "-u", f"127.0.0.1:{server.port}", "-i", "grpc", *options]
            command += ["--input-data", folder / "frames.json", "-p", str(arguments.window_ms), "-s", "15", "-f", table]
            table.unlink(missing_ok=True)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if not table.exists():  # it ends with 2 where no three windows agree, as on a busy machine, and tells them
                sys.exit(f"perf_analyzer, {title}: ended with {done.returncode}\n{done.stdout}{done.stderr}")
            [row] = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
            stable = done.returncode == 0
            runs[title] = {"options": options, "stable": stable, "table": row, "printed": done.stdout.splitlines()}
            print(f"{title}: " + ", ".join(f"{column} {row[column]}" for column in SHOWN), flush=True)
    out = arguments.out or usual
    report = {"machine": describe_machine(), "commit": commit, "frame": [SIDE, SIDE, 3], "unit": "us", "runs": runs}
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


def _program() -> tuple[Path, dict[str, str]]:
    """The program, and the environment in which it finds its libraries."""
    program = Path(sys.prefix) / "bin" / "perf_analyzer"
    if not program.exists():
        sys.exit("perf_analyzer is not installed here: make .venv-perf/installed")
    libraries = os.environ.get("LD_LIBRARY_PATH", "")
    there = [folder for folder in libraries.split(":") if folder and any(Path(folder).glob("libb64.so*"))]
    if ctypes.util.find_library("b64") is None and not there:
        sys.exit("libb64 is not installed: apt-get install libb64-0d")
    found = find_spec("nvidia.cuda_runtime")
    assert found is not None
    assert found.submodule_search_locations is not None
    cuda = Path(next(iter(found.submodule_search_locations))) / "lib"
    return program, {**os.environ, "LD_LIBRARY_PATH": f"{cuda}:{libraries}"}


def _frames() -> list[dict[str, object]]:
    """The demo's frames, as perf_analyzer reads them."""
    frames = []
    for path in sorted(FRAMES.glob("*.jpg")):
        image = np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE)))
        content = {"b64": base64.b64encode(image.tobytes()).decode()}
        frames.append({"FRAME": {"content": content, "shape": list(image.shape)}})
    return frames


if __name__ == "__main__":
    main()
