"""What exporting at full size takes and loses: `make proof-export`. Writes benchmarks/full/<date>-<commit>-export.json.

Needs a planted 0.5b checkpoint (made where none is named), 20 GiB of memory and 20 GB of disk; 90 minutes on two cores.
Every step is a process of its own, whose resident memory is watched.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from full_size import ANSWER, REPOSITORY, watched

from agvas_runtime.bench.machine import describe_machine, git_commit

KINDS = {
    "fp32": (),
    "fp16": ("--trt", "fp16", "--defer"),
    "int8": ("--llm", "int8", "--encoders", "int8"),
    "int4": ("--llm", "int4"),
}
FRAME = REPOSITORY / "agvas_runtime" / "demo" / "frames" / "04_part_crack.jpg"


def export(kind: str, source: Path, work: Path) -> dict[str, Any]:
    """Export in one precision and segment two frames with the bundle through `Segmenter`."""
    out = work / kind
    shutil.rmtree(out, ignore_errors=True)
    report = watched("agvas-export", source, "--out", out, *KINDS[kind])
    manifest = json.loads((out / "manifest.json").read_text())
    report["parity"] = manifest["parity"]
    report["bytes"] = sum(file["size"] for file in manifest["files"].values())
    report["segment"] = watched(
        *("agvas-runtime", "segment", FRAME, FRAME.with_name("05_part_normal.jpg"), "--bundle", out, "--engine", "ort")
    )
    for step in (report, report["segment"]):
        step["command"] = step["command"].replace(str(source), "PLANTED").replace(str(work), "WORK")
    shutil.rmtree(out)
    return report


def main() -> None:
    """Measure, and write the file after every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planted", type=Path, help="planted 0.5b checkpoint; made by default")
    parser.add_argument("--work", type=Path, help="folder for the bundles; a temporary one by default")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "sam-vit-h"], default=[*KINDS, "sam-vit-h"])
    arguments = parser.parse_args()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    out = REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-export.json"
    report: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    report |= {"machine": describe_machine(), "commit": commit}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work, planted = Path(name), arguments.planted
        if planted is None and set(arguments.kinds) & set(KINDS):
            planted = work / "planted"
            watched(
                "agvas-train", "init", "--preset", "0.5b", "--random-weights", 0, "--plant", ANSWER, "--out", planted
            )
        for kind in arguments.kinds:
            if kind == "sam-vit-h":
                script = Path(__file__).with_name("sam_vit_h.py")
                printed = subprocess.run([sys.executable, script, work], check=True, capture_output=True, text=True)
                report[kind] = json.loads(printed.stdout)
            else:
                report[f"0.5b {kind}"] = export(kind, planted, work)
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
