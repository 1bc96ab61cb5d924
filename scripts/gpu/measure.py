"""One preset's figures in one process: whole frame, checks against decoding token by token, parts, precisions.

    python scripts/gpu/measure.py --preset 7b --out figures/7b.json --seconds 160
    python scripts/gpu/measure.py --preset 7b --reduce --device cpu --dtype float32 --out runs/try/7b.json

Steps run in the order of STEPS; the JSON is written after each, and what stands in it is not measured again. Compiled
code is kept in `agvas/compiled` of $XDG_CACHE_HOME or ~/.cache, unless TORCHINDUCTOR_CACHE_DIR names another folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

BEGAN = time.monotonic()  # what is imported from here on is within the budget
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agvas_runtime.errors import InputError  # noqa: E402

if TYPE_CHECKING:
    from record import Record

STEPS = {
    "peaks": 12.0,
    "build": 8.0,
    "frame": 25.0,
    "checks": 8.0,
    "reference": 5.0,
    "memory": 4.0,
    "profile": 4.0,
    "parts": 10.0,
    "fp8": 15.0,
    "profile_fp8": 3.0,
    "fp8_all": 15.0,
    "profile_fp8_all": 3.0,
    "int4_all": 12.0,
    "passes": 25.0,
    "int8_all": 12.0,
    "throughput_1": 20.0,
    "throughput_4": 50.0,
    "compiled-decode": 60.0,
}
"""Every step and about the seconds it needs behind those before it; one that needs more than is left is put off."""
BEHIND = {"profile_fp8": "fp8", "profile_fp8_all": "fp8_all"}
"""Steps that need little because the model is in their numbers already, when it is the other's that just ran."""
ALONE = 40.0
"""Seconds that they need else."""
DEFAULT = [step for step in STEPS if not step.startswith("throughput") and step != "compiled-decode"]
BUILD_FAILED = 4
"""Exit code where there is no model: another process would get no further."""


def needs(step: str, before: str | None) -> float:
    """About the seconds that a step needs when `before` is what the model was last measured by."""
    return ALONE if step in BEHIND and BEHIND[step] != before else STEPS[step]


def open_steps(record: Record, steps: list[str]) -> list[str]:
    """Those of the steps to run now: what was cut off twice waits until nothing else is open."""
    tries = {step: max(record.tries(step), 1) for step in STEPS if step in steps and not record.done(step)}
    return [step for step, count in tries.items() if count == min(tries.values())]


def compiled_folder() -> Path:
    """Where compiled code lies, apart from figures."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agvas" / "compiled"


def keep_compiled(folder: Path) -> None:
    """Let compiled code lie in a folder, for the processes after this one; before torch is imported.

    It is executed, so InputError is raised where others own the folder or may write to it.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        found = f"owner {about.st_uid}, mode {about.st_mode:o}"
        raise InputError(f"{folder}: found {found}, expected a folder that only you can write to")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("7b", "0.5b", "tiny"), default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--reduce", action="store_true", help="few narrow layers: to try the script")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=DEFAULT)
    parser.add_argument("--seconds", type=float, default=240, help="wall-clock budget of this process")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--images", type=int, default=6, help="that answers are checked on")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument(
        "--attention",
        choices=("split", "flex", "one"),
        default="flex",
        help="of the frame's pass: the nodes apart from the prompt; FlexAttention, or split where it fails; one mask",
    )
    parser.add_argument("--kernels", nargs="+", help="attention kernels to choose from: flash, cudnn, efficient")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Measure what is open. Raises InputError where the file, or the folder of compiled code, is not fit for that."""
    keep_compiled(compiled_folder())
    # a profiler that comes and goes breaks recorded graphs
    os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import attention  # these import torch, which reads the environment
    import torch
    from bench import Bench
    from record import Record
    from timing import Compiled, allow_compiling

    attention.TRIED = tuple(options.kernels or attention.TRIED)
    Compiled.on = not options.eager
    allow_compiling()
    record = Record(
        options.out,
        options.seconds - (time.monotonic() - BEGAN),
        by={"kernels": list(attention.TRIED), "attention": options.attention},
        preset=options.preset,
        dtype=options.dtype,
        reduced=options.reduce,
    )
    wanted = open_steps(record, [step for step in options.steps if step != "build"])
    if not wanted and record.done("build"):
        return
    steps = Bench(options).steps()
    with torch.inference_mode():
        if "peaks" in wanted:
            record.run("peaks", STEPS["peaks"], steps["peaks"])
        record.found["steps"].pop("build", None)  # every process builds
        with torch.inference_mode(False), torch.no_grad():
            built = record.run("build", STEPS["build"], steps["build"])
        if not built:
            sys.exit(BUILD_FAILED)
        before = None
        for step in wanted:
            if step != "peaks":
                ran = record.run(step, needs(step, before), steps[step])
                before = step if ran else before


def main() -> None:
    """Measure; what a user can cause is one line and exit code 2."""
    try:
        run(read_options())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
