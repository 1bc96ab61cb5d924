"""The single pass beside its rivals, interleaved on this CPU: `make proof-single-pass-bench`.

Reference, compiled decoding, the same bundle decoding plainly, and the single pass; tiny and planted 0.5b with 8-bit
graphs; answers that hit the trie, a rejection, and one that leaves it. Writes benchmarks/full/<date>-<commit>-
single-pass-bench.json. The 0.5b part needs 20 GiB of memory and 25 GB of disk; all of it two hours on two idle cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from full_size import REPOSITORY, watched

from agvas_runtime.bench.machine import describe_machine, git_commit

ANSWERS = {"hit": "Sure, it is [NOR][ANO][SEG].", "rejection": "It looks normal to me.", "miss": "It is a cat."}
"""Planted ones: a known answer, a rejection, and one that leaves the trie behind two tokens."""
EXPORT = ("--llm", "int8", "--encoders", "int8")
FRAMES = {"tiny": (300, 20), "0.5b": (12, 2)}
"""Measured and warming up, by default."""
MODES = ("direct", "describe")
"""Of the embedded model: it hits in direct mode and leaves the trie where it describes."""
PASSIVE = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


def bench(bundle: Path | None, checkpoint: Path | None, count: tuple[int, int], threads: int, *more: str) -> Any:
    """`agvas-bench engine` of all four; None is what is embedded."""
    contenders = {"ort": bundle, "ort-plain": bundle, "compiled-decode": checkpoint, "reference": checkpoint}
    command = [Path(sys.executable).with_name("agvas-bench"), "engine", "--no-alone", "--batch", "1", "--json", *more]
    for engine, path in contenders.items():
        command += ["--contender", f"{engine}={engine}" + (f":{path}" if path else "")]
    command += ["--frames", str(count[0]), "--warmup", str(count[1]), "--threads", str(threads)]
    done = subprocess.run(command, cwd=REPOSITORY, env=PASSIVE, stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout)
    del report["yardstick_ms"], report["elsewhere_ms"]
    for each in report["contenders"]:
        del each["samples"]
        each["model"] = Path(each["model"]).name
    return report


def planted(
    preset: str, answer: str, work: Path, dtype: str, count: tuple[int, int], threads: int, keep: bool
) -> dict[str, Any]:
    """Plant an answer, export in 8 bits, measure. What lies in the folder already is taken."""
    checkpoint, bundle = work / "checkpoint", work / "bundle"
    init = ("--preset", preset, "--random-weights", 0, "--plant", answer, "--dtype", dtype, "--out", checkpoint)
    steps = [] if checkpoint.is_dir() else [watched("agvas-train", "init", *init)]
    steps += [] if bundle.is_dir() else [watched("agvas-export", checkpoint, "--out", bundle, *EXPORT)]
    for step in steps:
        step["command"] = step["command"].replace(str(work), "WORK")
    report = {"answer": answer, "dtype": dtype, "steps": steps, **bench(bundle, checkpoint, count, threads)}
    if not keep:
        shutil.rmtree(checkpoint)
        shutil.rmtree(bundle)
    return report


def summary(report: dict[str, Any]) -> str:
    """The ratios in one line a group."""
    lines = []
    for group in ("hit", "miss"):
        rivals = [(each["name"], each["groups"].get(group)) for each in report["contenders"][1:]]
        medians = [
            (name, {what: each["median"] for what, each in found["times_of_base"].items()})
            for name, found in rivals
            if found
        ]
        times = [f"{name} {found['call']:.2f} (llm+text {found['llm+text']:.2f})" for name, found in medians]
        if times:
            lines.append(f"  {group}: times of the single pass: {', '.join(times)}")
            lines.append(f"  trie: {json.dumps(report['trie']['groups'][group])}")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the file after every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for checkpoints and bundles; a temporary one by default")
    parser.add_argument("--keep", type=Path, help="the same, but what lies there is taken, and stays")
    parser.add_argument("--kinds", nargs="+", choices=ANSWERS, default=list(ANSWERS), help="planted answers")
    parser.add_argument("--presets", nargs="+", choices=FRAMES, default=list(FRAMES))
    parser.add_argument("--frames", type=int, help="measured frames, instead of each preset's own number")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="of the planted checkpoints"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-single-pass-bench.json")
    arguments = parser.parse_args()
    commit, began = (git_commit(REPOSITORY) or "unknown")[:12], time.perf_counter()
    folder = REPOSITORY / "benchmarks" / "full"
    out = arguments.out or folder / f"{date.today().isoformat()}-{commit}-single-pass-bench.json"
    report: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    report |= {"machine": describe_machine(), "commit": commit}

    def keep(name: str, found: dict[str, Any]) -> None:
        report[name] = found
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"{time.perf_counter() - began:6.0f} s  {name}\n{summary(found)}", flush=True)

    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        for preset in arguments.presets:
            count = (arguments.frames, FRAMES[preset][1]) if arguments.frames else FRAMES[preset]
            for mode in MODES if preset == "tiny" else ():
                keep(f"embedded {mode}", bench(None, None, count, arguments.threads, "--mode", mode))
            for kind in arguments.kinds:
                place = (arguments.keep or Path(name)) / f"{preset}-{kind}"
                place.mkdir(parents=True, exist_ok=True)
                options = (place, arguments.dtype, count, arguments.threads, arguments.keep is not None)
                keep(f"{preset} planted {kind}", planted(preset, ANSWERS[kind], *options))
    print(f"wrote {out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out}")


if __name__ == "__main__":
    main()
