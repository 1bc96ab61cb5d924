"""The figures behind the README, measured in one go: `make proof`. Writes benchmarks/full/<date>-<commit>.json.

Start-up and memory of the server, latency of every stage, quality on the evaluation images where there are any. Run it
on an idle machine; it uses the environment of `make demo`, so nothing of torch is in the way.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.client import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.resident import resident_bytes
from tools.shared_images import real_images

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = REPOSITORY / "agvas_runtime" / "demo" / "frames"
STARTS, SERVED, THREADS = 5, 200, 2
CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "check": True}


def command(name: str, *arguments: object) -> list[str]:
    """A command of this Python's environment, printing JSON."""
    return [str(Path(sys.executable).with_name(name)), *map(str, arguments), "--json"]


def printed(name: str, *arguments: object) -> Any:
    """What the command prints."""
    return json.loads(subprocess.run(command(name, *arguments), cwd=REPOSITORY, **CAPTURED).stdout)


def server() -> dict[str, Any]:
    """Seconds from start to ready, over several starts; resident memory after a few hundred frames."""
    seconds, resident = [], 0
    frames = [path.read_bytes() for path in sorted(FRAMES.glob("*.jpg"))]
    for _ in range(STARTS):
        began = time.perf_counter()
        serve = command("agvas-runtime", "serve", "--port", 0, "--threads", THREADS)
        process = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            event = json.loads(process.stdout.readline())
            seconds.append(time.perf_counter() - began)
            if not resident:
                with Client(f"127.0.0.1:{event['port']}") as client:
                    for index in range(SERVED):
                        client.segment(frames[index % len(frames)])
                resident = sum(resident_bytes(process.pid).values())
        finally:
            process.terminate()
            process.wait()
    return {
        "ready_s": {"median": statistics.median(seconds), "max": max(seconds), "starts": STARTS},
        "resident_bytes_after_frames": {"frames": SERVED, "bytes": resident},
    }


def engine() -> dict[str, Any]:
    """`agvas-bench engine` on the demo's frames, without the samples."""
    arguments = ("--image", FRAMES.relative_to(REPOSITORY), "--frames", 300, "--threads", THREADS)
    report: dict[str, Any] = printed("agvas-bench", "engine", *arguments)
    for contender in report["contenders"]:
        del contender["samples"]
    del report["yardstick_ms"], report["elsewhere_ms"]
    return report


def evaluation() -> dict[str, Any] | None:
    """`agvas-eval` on the evaluation images; None where there are none."""
    data = real_images()
    return printed("agvas-eval", data, "--threads", THREADS) if data else None


def main() -> None:
    """Measure everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write; by default benchmarks/full/<date>-<commit>.json")
    arguments = parser.parse_args()
    bundle = Bundle.open(default_bundle_path())
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    report = {
        "machine": describe_machine(),
        "commit": commit,
        "bundle_bytes": bundle.size_bytes,
        "parity": bundle.manifest.parity,
        "server": server(),
        "engine": engine(),
        "evaluation": evaluation(),
    }
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out}")


if __name__ == "__main__":
    main()
