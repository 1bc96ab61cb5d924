"""Does `agvas-bench compare` find what it must, and nothing else? `make proof-compare`, eight minutes on two cores.

In each of 20 rounds three processes that take turns measure the embedded model: as it is, as it is once more, and with
one stage made a fifth slower by waiting in it. Writes the runs' samples to
tests/runtime/compared_runs.json.gz, where a test judges them again, and what became of them to
benchmarks/full/<date>-<commit>-compare.json.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from agvas_runtime.bench.cli_compare import compared
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.console import finite

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS = REPOSITORY / "tests" / "runtime" / "compared_runs.json.gz"
STAGES = ("encoders", "llm", "decoder", "preprocess", "postprocess", "decode", "spam", "text")
SHARE = 0.2


def run_here(stage: str, frames: int, lock: Path) -> dict[str, Any]:
    """Measure in this process, with a stage that takes a fifth longer than it would; "" for none."""
    from agvas_runtime import segmenter
    from agvas_runtime.bench.contenders import Contender
    from agvas_runtime.bench.engines import Options, bench_engines
    from agvas_runtime.outcome import Stopwatch

    class Slower(Stopwatch):
        def lap(self, name: str) -> None:
            if name == stage:
                now = time.perf_counter()
                until = now + SHARE * (now - self._last)
                while time.perf_counter() < until:
                    pass
            super().lap(name)

    segmenter.Stopwatch = Slower  # type: ignore[misc]
    return bench_engines([Contender.of("ort", None)], Options(frames=frames, by_turns=lock, batches=(), alone=False))


def measured(stages: Sequence[str], frames: int) -> list[dict[str, Any]]:
    """The same in processes that take turns; of their reports what is compared, to a microsecond."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--frames", str(frames), "--lock", str(Path(folder) / "lock"), "--one"]
        running = [
            subprocess.Popen([*command, stage], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for stage in stages
        ]
        printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a measuring process failed")
    return [shortened(json.loads(text)) for text in printed]


def shortened(report: dict[str, Any]) -> dict[str, Any]:
    """What `compare` looks at."""
    times = report["contenders"][0]["samples"]["times_ms"]
    return {
        "kind": "engine",
        "machine": {"cores_usable": report["machine"]["cores_usable"]},
        "bouts_began_s": report["bouts_began_s"],
        "yardstick_ms": [round(value, 3) for value in report["yardstick_ms"]],
        "elsewhere_ms": [round(value, 1) for value in report["elsewhere_ms"]],
        "contenders": [
            {
                "name": "ort",
                **dict.fromkeys(("alone", "quality", "data")),
                "stages_ms": {"call": report["contenders"][0]["stages_ms"]["call"]},
                "throughput": [],
                "samples": {"times_ms": {name: [round(value, 3) for value in each] for name, each in times.items()}},
            }
        ],
    }


def judged(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What `compare` says of every round."""
    said: dict[str, Any] = {"planted": [], "unchanged": []}
    for each in rounds:
        slow = compared(each["base"], each["slow"], "base", "slow")
        same = compared(each["base"], each["again"], "base", "again")
        found = f"ort: {each['stage']}" in slow["slower"]
        ratio = next(one["ratio"] for one in slow["changes"] if one["what"] == each["stage"])
        said["planted"].append(
            {
                "stage": each["stage"],
                "found": found,
                "ratio": ratio,
                "slower": slow["slower"],
                "pairs": slow["pairs"],
            }
        )
        said["unchanged"].append({word: same[word] for word in ("pairs", "slower", "faster", "unclear")})
    said["found"] = sum(each["found"] for each in said["planted"])
    said["others_said_slower"] = sum(
        len(set(each["slower"]) - {f"ort: {each['stage']}", "ort: call"}) for each in said["planted"]
    )
    said["false_alarms"] = sum(bool(each["slower"] or each["faster"] or each["unclear"]) for each in said["unchanged"])
    return said


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--lock", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the samples go")
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-compare.json")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(finite(run_here(arguments.one, arguments.frames, arguments.lock))))
        return
    machine, commit = describe_machine(), git_commit(REPOSITORY) or "unknown"
    rounds = []
    for number in range(arguments.rounds):
        stage = STAGES[number % len(STAGES)]
        runs = measured(["", "", stage], arguments.frames)
        rounds.append({"stage": stage, **dict(zip(("base", "again", "slow"), runs, strict=True))})
        said = judged(rounds)
        print(f"{number + 1:3}  {said['planted'][-1]}  unchanged: {said['unchanged'][-1]}", flush=True)
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-compare.json"
    report = {
        "machine": machine,
        "commit": commit,
        "rounds": len(rounds),
        "frames": arguments.frames,
        **judged(rounds),
    }
    content = json.dumps({"machine": machine, "rounds": rounds}, separators=(",", ":")).encode()
    arguments.runs.write_bytes(gzip.compress(content, 9, mtime=0))
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"found {report['found']} of {len(rounds)}, false alarms {report['false_alarms']}; wrote {out.name}")


if __name__ == "__main__":
    main()
