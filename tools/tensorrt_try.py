"""Builds a TensorRT engine of one ONNX file, runs it, times it, and compares it with given outputs; prints JSON.

    python tools/tensorrt_try.py model.onnx --range T=100,200,300 --inputs inputs.npz --compare outputs.npz

Needs numpy, tensorrt and cuda-python, and nothing else of agvas: Python 3.10 with TensorRT 8.6 will do.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from agvas_runtime.engines.device import Device, probe
from agvas_runtime.engines.tensorrt_build import Options, build_plan
from agvas_runtime.engines.tensorrt_run import TrtEngine
from agvas_runtime.engines.tensorrt_session import Session
from agvas_runtime.errors import EngineError, InputError

WARMUP = 10


def parse(arguments: "list[str] | None" = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("onnx", type=Path, help="typed graph; its external data lies beside it")
    parser.add_argument("--range", action="append", default=[], metavar="NAME=MIN,USUAL,MAX", help="of a dimension")
    parser.add_argument("--precision", choices=("fp16", "int8", "fp8"), default="fp16", help="of the typed graph")
    parser.add_argument("--workspace-mb", type=int, help="most memory that one layer may use")
    parser.add_argument("--level", type=int, choices=range(6), help="how long to search for kernels")
    parser.add_argument("--inputs", type=Path, metavar="NPZ", help="inputs by name; random ones by default")
    parser.add_argument("--compare", type=Path, metavar="NPZ", help="outputs by name to compare with")
    parser.add_argument("--repeats", type=int, default=100)
    return parser.parse_args(arguments)


def ranges_of(texts: "list[str]") -> "dict[str, tuple[int, int, int]]":
    """`NAME=MIN,USUAL,MAX` each. Raises InputError."""
    ranges = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        numbers = sizes.split(",")
        if not name or len(numbers) != 3 or not all(number.isdigit() for number in numbers):
            raise InputError(f"--range {text}: expected NAME=MIN,USUAL,MAX")
        ranges[name] = int(numbers[0]), int(numbers[1]), int(numbers[2])
    return ranges


def weight_bytes(onnx: Path) -> int:
    """Size of the graph, what is named after it, and every *.data beside it: graphs may share one."""
    found = {*onnx.parent.glob(f"{onnx.stem}*"), *onnx.parent.glob("*.data")}
    return sum(path.stat().st_size for path in found if path.is_file())


def random_inputs(engine: TrtEngine) -> "dict[str, np.ndarray]":
    """Of the usual shapes: normally distributed floats, zeros where it takes integers."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(info.usual) if info.dtype.kind == "f" else np.zeros(info.usual)).astype(info.dtype)
        for name, info in engine.inputs.items()
    }


def time_ms(session: Session, work: "Callable[[], object]", repeats: int) -> float:
    """Median milliseconds of the work until the device is done with it."""
    times = []
    for turn in range(WARMUP + repeats):
        session.synchronize()
        began = time.perf_counter()
        work()
        session.synchronize()
        if turn >= WARMUP:
            times.append((time.perf_counter() - began) * 1e3)
    return median(times)


def differences(got: "dict[str, np.ndarray]", expected_file: Path) -> "dict[str, dict[str, float]]":
    """Largest difference of every output, as it is and relative to the largest expected value."""
    result = {}
    with np.load(expected_file, allow_pickle=False) as expected:
        for name in expected.files:
            if name not in got or got[name].shape != expected[name].shape:
                found = list(got[name].shape) if name in got else f"only {', '.join(got)}"
                raise InputError(f"{expected_file}: {name} {list(expected[name].shape)}: the graph gives {found}")
            wanted = expected[name].astype(np.float64)
            largest = float(np.abs(got[name].astype(np.float64) - wanted).max())
            result[name] = {"largest": largest, "relative": largest / max(float(np.abs(wanted).max()), 1e-30)}
    return result


def try_graph(options: argparse.Namespace, device: Device) -> "dict[str, object]":
    """Build, run, time, compare."""
    name = options.onnx.stem
    workspace = options.workspace_mb * 2**20 if options.workspace_mb else None
    how = Options(options.precision, ranges_of(options.range), workspace, level=options.level)
    built = build_plan(options.onnx, device, how, name=name, weight_bytes=weight_bytes(options.onnx))
    session = Session()
    try:
        engine = TrtEngine(name, built.plan, session)
        if options.inputs:
            with np.load(options.inputs, allow_pickle=False) as given:
                feeds = {key: given[key] for key in given.files}
        else:
            feeds = random_inputs(engine)
        outputs = {key: np.asarray(value) for key, value in engine.run(feeds).items()}
        return {
            "device": vars(device),
            "plan_bytes": memoryview(built.plan).nbytes,
            "build_seconds": round(built.seconds, 2),
            "workspace_bytes": built.workspace_bytes,
            "context_bytes": engine.scratch_bytes,
            "peak_device_bytes": built.peak_device_bytes,
            "peak_host_bytes": built.peak_host_bytes,
            "inputs": {key: str(info) for key, info in engine.inputs.items()},
            "outputs": {key: f"{value.dtype}{list(value.shape)}" for key, value in outputs.items()},
            "finite": {key: bool(np.isfinite(value).all()) for key, value in outputs.items()},
            "cuda_graph": engine.replays_graph,
            "run_ms": time_ms(session, lambda: engine.run(feeds), options.repeats),
            "replay_ms": time_ms(session, engine.replay, options.repeats),
            "differences": differences(outputs, options.compare) if options.compare else None,
            "warnings": built.warnings,
        }
    finally:
        session.close()


def main() -> int:
    """Exit code 0; 1 where the machine or TensorRT refuses, 2 where the arguments are wrong."""
    options = parse()
    try:
        for path in (options.onnx, options.inputs, options.compare):
            if path and not path.is_file():
                raise InputError(f"{path}: no such file")
        ranges_of(options.range)
        print(json.dumps(try_graph(options, probe()), indent=2))
    except (EngineError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, EngineError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
