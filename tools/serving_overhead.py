"""What serving adds to the engine's own time, by agvas and by NVIDIA's Triton, in turns: `make proof-serving`.

Both run the embedded model with the same segmenter, threads and packages, on the same raw frames of 1 MB, and answer
with the same masks. Writes benchmarks/full/<date>-<commit>-serving.json, and ends with 1 where agvas adds more than
Triton. How it is made fair, and what the numbers are, is said in docs/serving.md. Ten minutes on two idle cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
from PIL import Image
from serving_asks import (
    Ask,
    Frame,
    Sample,
    agvas,
    agvas_messages,
    check_same,
    in_turns,
    triton,
    triton_messages,
    triton_shared,
)
from triton_server import TritonProcess, family, reachable_addresses, triton_process
from tritonclient.grpc import InferenceServerClient

from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import ServerProcess, server_process
from agvas_runtime.local_client import LocalClient
from agvas_runtime.server.channel import client_options

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMES = REPOSITORY / "agvas_runtime" / "demo" / "frames"
SIDE = 592
"""592 x 592 x 3 are 1,051,392 bytes, just over 1 MiB, and a row of the mask fills whole bytes."""
PERCENTILES = (50, 90, 99)
WARM_UP, IDLE_S = 50, 2.0
PACKAGES = ("grpcio", "protobuf", "tritonclient", "nvidia-pytriton")
DECIDE = ("clients", "shared memory")
"""The parts in which agvas must not add more, at any percentile: the whole way of a frame, from array to array."""


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99."""
    return {f"p{each}": float(np.percentile(values, each)) for each in PERCENTILES}


def described(runs: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """All repetitions together, and what each one added."""
    samples = [each for run in runs for each in run]
    beside = samples[0].answer.beside_ms
    return {
        "adds_ms": percentiles([each.adds_ms for each in samples]),
        "round_trip_ms": percentiles([each.round_trip_ms for each in samples]),
        "engine_ms": percentiles([each.answer.engine_ms for each in samples]),
        "adds_ms_each_repetition": [percentiles([each.adds_ms for each in run]) for run in runs],
        "beside_ms_p50": {k: float(np.median([each.answer.beside_ms[k] for each in samples])) for k in beside},
    }


def compared(
    asks: Mapping[str, Ask], pids: Mapping[str, int], frames: Sequence[Frame], count: int, times: int
) -> dict[str, Any]:
    """Ask agvas and Triton in turns; processor time and memory are those of each server's own processes."""
    check_same(in_turns(asks, frames, WARM_UP))
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    runs = [in_turns(asks, frames, count) for _ in range(times)]
    report: dict[str, Any] = {name: described([run[name] for run in runs]) for name in asks}
    for name, pid in pids.items():
        report[name]["server_cpu_ms_a_request"] = (cpu_s(pid) - before[name]) * 1e3 / (count * times)
        report[name]["server_memory_bytes"] = memory_bytes(pid)
    ours, theirs = report["agvas"]["adds_ms"], report["triton"]["adds_ms"]
    return {**report, "times_of_triton": {each: ours[each] / theirs[each] for each in ours}}


def beside(name: str, ask: Ask, ours: Ask, frames: Sequence[Frame], count: int) -> dict[str, Any]:
    """Another way to ask Triton, in turns with agvas, so that its turn begins as it does in the comparison."""
    asks = {"agvas": ours, name: ask}
    in_turns(asks, frames, WARM_UP)
    return described([in_turns(asks, frames, count)[name]])


def cpu_s(pid: int) -> float:
    """Seconds of processor time that the process and all it started have taken."""
    return sum(each.cpu_times().user + each.cpu_times().system for each in family(pid))


def memory_bytes(pid: int) -> int:
    """Memory of the process and all it started; what several share is counted once."""
    return sum(each.memory_full_info().pss for each in family(pid))


def idle_cores(pids: Mapping[str, int]) -> dict[str, float]:
    """Cores that each server takes when nobody asks."""
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(IDLE_S)
    return {name: (cpu_s(pid) - before[name]) / IDLE_S for name, pid in pids.items()}


def demo_frames() -> list[Frame]:
    """The demo's frames, at 1 MB each."""
    images = (Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in sorted(FRAMES.glob("*.jpg")))
    return [np.asarray(image) for image in images]


def measure(ours: ServerProcess, theirs: TritonProcess, socket: Path, count: int, times: int) -> dict[str, Any]:
    """Everything, with both servers warm and neither asked while the other is."""
    pids, frames = {"agvas": ours.process.pid, "triton": theirs.process.pid}, demo_frames()
    for name, pid in pids.items():
        if reachable := reachable_addresses(pid):
            sys.exit(f"{name} listens beyond loopback: {', '.join(reachable)}")
    our_address, their_address = f"127.0.0.1:{ours.port}", f"127.0.0.1:{theirs.port}"
    with ExitStack() as stack:
        client = stack.enter_context(Client(our_address))
        local = stack.enter_context(LocalClient(socket))
        rival = stack.enter_context(InferenceServerClient(their_address))
        tuned = stack.enter_context(InferenceServerClient(their_address, channel_args=client_options(pings=False)))
        our_channel = stack.enter_context(grpc.insecure_channel(our_address, client_options()))
        their_channel = stack.enter_context(grpc.insecure_channel(their_address))
        shared = stack.enter_context(triton_shared(rival, frames[0].nbytes))
        parts: dict[str, dict[str, Ask]] = {
            "clients": {"agvas": agvas(client, "packed_bits"), "triton": triton(rival)},
            "messages": {
                "agvas": agvas_messages(our_channel, frames),
                "triton": triton_messages(their_channel, frames),
            },
            "no mask": {"agvas": agvas(client, "none"), "triton": triton(rival, with_mask=False)},
            "shared memory": {"agvas": agvas(local, "packed_bits"), "triton": shared},
        }
        others = {
            "triton, agvas's channel options": triton(tuned),
            "triton, without an engine": triton(rival, model="echo"),
        }
        report: dict[str, Any] = {"idle_cores": idle_cores(pids)}
        report |= {name: compared(asks, pids, frames, count, times) for name, asks in parts.items()}
        usual = parts["clients"]["agvas"]
        return {**report, "others": {name: beside(name, ask, usual, frames, count) for name, ask in others.items()}}


def table(report: Mapping[str, Any]) -> str:
    """The report in columns."""
    heads = ("", "adds p50", "p90", "p99", "round trip p50", "engine p50", "server CPU", "memory")
    lines = ["{:34}{:>9}{:>8}{:>8}{:>16}{:>12}{:>12}{:>9}".format(*heads)]
    for part in ("clients", "messages", "no mask", "shared memory", "others"):
        lines.append(part)
        for name, found in report[part].items():
            shown = found if name == "times_of_triton" else found["adds_ms"]
            line = "  {:32}{:9.2f}{:8.2f}{:8.2f}".format(name.replace("_", " "), *shown.values())
            if "engine_ms" in found:
                line += f"{found['round_trip_ms']['p50']:13.2f} ms{found['engine_ms']['p50']:9.2f} ms"
            if "server_memory_bytes" in found:
                line += f"{found['server_cpu_ms_a_request']:9.1f} ms{found['server_memory_bytes'] / 2**20:6.0f} MB"
            lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Start both servers, measure, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="to each server, in every repetition")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of each engine")
    parser.add_argument("--json", action="store_true", help="print the report instead of the table")
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-serving.json")
    arguments = parser.parse_args()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-serving.json"
    with TemporaryDirectory() as folder, ExitStack() as servers:
        socket = Path(folder) / "local"
        ours = servers.enter_context(server_process(["--threads", str(arguments.threads), "--local", str(socket)]))
        theirs = servers.enter_context(triton_process(arguments.threads))
        report = {
            "machine": describe_machine(),
            "commit": commit,
            "versions": {"tritonserver": theirs.version, **{name: version(name) for name in PACKAGES}},
            "frame": {"pixel_format": "RGB8", "height": SIDE, "width": SIDE, "bytes": SIDE * SIDE * 3},
            "threads": arguments.threads,
            "requests": arguments.requests,
            "repetitions": arguments.repetitions,
            **measure(ours, theirs, socket, arguments.requests, arguments.repetitions),
        }
    holds = all(times <= 1 for part in DECIDE for times in report[part]["times_of_triton"].values())
    out.write_text(json.dumps({**report, "holds": holds}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**report, "holds": holds}) if arguments.json else table(report))
    if not arguments.json:
        print(f"agvas adds {'no more' if holds else 'MORE'} than Triton")
        print(f"wrote {out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out}")
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    main()
