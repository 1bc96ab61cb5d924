"""What a way alone adds to a frame of 1 MB: agvas's local client beside a bare Unix socket and bare gRPC, in turns.

The bare ways check nothing, count nothing and answer with a number: their client copies 1 MB into other memory, 200
bytes go to a server process, from there through a pipe to an engine process, which multiplies matrices for about as
long as the embedded model takes, and its time comes back. `LocalClient` speaks a protocol of its own over a Unix
socket, so the bare socket is what it could reach at best; bare gRPC tells what that protocol is for. Writes
benchmarks/full/<date>-<commit>-transport.json; a minute on two idle cores.
"""

import argparse
import json
import multiprocessing as mp
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import grpc
import numpy as np

from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.local_client import LocalClient

REPOSITORY = Path(__file__).resolve().parents[1]
STAGES = ("preprocess", "encoders", "spam", "llm", "text", "decoder", "postprocess")
"""The engine's own, of a reply's timings."""
SIDE = 592
"""592 x 592 x 3 are 1,051,392 bytes."""
WARM_UP = 30
MESSAGE = b"x" * 200
SERVICE, METHOD = "floor", "ask"

Way = Callable[[], float]
"""Asks once and returns the engine's milliseconds."""


def engine(pipe: Connection, engine_ms: float) -> None:
    """Multiply matrices for so long whenever a message comes; answer with the milliseconds it took."""
    matrix = np.ones((300, 300), np.float32)
    while True:
        try:
            pipe.recv_bytes()
        except EOFError:  # the server is gone
            return
        began = time.perf_counter()
        while (took := (time.perf_counter() - began) * 1e3) < engine_ms:
            np.dot(matrix, matrix)
        pipe.send_bytes(b"%f" % took)


def _engine_behind(engine_ms: float) -> Connection:
    ours, its = mp.Pipe()
    mp.Process(target=engine, args=(its, engine_ms), daemon=True).start()
    return ours


def grpc_server(address: str, engine_ms: float, ready: Connection) -> None:
    """One method, whose handler asks the engine."""
    pipe = _engine_behind(engine_ms)

    def ask(message: bytes, context: grpc.ServicerContext) -> bytes:
        pipe.send_bytes(message)
        return pipe.recv_bytes()

    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(ask)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(address)
    server.start()
    ready.send(True)
    server.wait_for_termination()


def socket_server(address: str, engine_ms: float, ready: Connection) -> None:
    """One connection, whose messages go to the engine."""
    pipe = _engine_behind(engine_ms)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address)
        listening.listen(1)
        ready.send(True)
        connection, _ = listening.accept()
        with connection:
            while message := connection.recv(4096):
                pipe.send_bytes(message)
                connection.send(pipe.recv_bytes())


def started(stack: ExitStack, serve: Callable[[str, float, Connection], None], address: str, engine_ms: float) -> None:
    """The server in a process of its own, which ends with its engine when the stack does."""
    ours, its = mp.Pipe()
    process = mp.Process(target=serve, args=(address, engine_ms, its))
    process.start()
    its.close()  # so that a server that does not start is an EOFError, and no wait for ever
    stack.callback(process.join)
    stack.callback(process.terminate)
    ours.recv()


def copied(frame: np.ndarray, ask: Callable[[], bytes]) -> Way:
    """Copy the frame, then ask."""
    other = np.zeros_like(frame)

    def way() -> float:
        np.copyto(other, frame)
        return float(ask())

    return way


def measure(engine_ms: float, frames: int) -> dict[str, dict[str, float]]:
    """Milliseconds beside the engine's, by way; drawn by lot, each `frames` times."""
    frame = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        local = f"{folder}/agvas"
        stack.enter_context(server_process(["--local", local]))
        client = stack.enter_context(LocalClient(local))
        started(stack, grpc_server, f"unix:{folder}/grpc", engine_ms)
        started(stack, socket_server, f"{folder}/socket", engine_ms)
        call = stack.enter_context(grpc.insecure_channel(f"unix:{folder}/grpc")).unary_unary(f"/{SERVICE}/{METHOD}")
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        connection.connect(f"{folder}/socket")

        def by_socket() -> bytes:
            connection.send(MESSAGE)
            return connection.recv(4096)

        def by_agvas() -> float:
            timings = client.segment(frame, mask="packed_bits").timings_ms
            return sum(timings[stage] for stage in STAGES)

        ways: dict[str, Way] = {
            "agvas": by_agvas,
            "bare gRPC": copied(frame, lambda: call(MESSAGE)),
            "bare socket": copied(frame, by_socket),
        }
        added: dict[str, list[float]] = {name: [] for name in ways}
        rng = Random(1)
        for turn in range(frames + WARM_UP):
            for name in rng.sample(list(ways), len(ways)):
                began = time.perf_counter()
                engine_took = ways[name]()
                if turn >= WARM_UP:
                    added[name].append((time.perf_counter() - began) * 1e3 - engine_took)
    return {
        name: {f"p{each}": round(float(np.percentile(values, each)), 3) for each in (50, 90, 99)}
        for name, values in added.items()
    }


def main() -> None:
    """Measure, print, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300, help="by each way")
    parser.add_argument("--engine-ms", type=float, default=25.0, help="of the bare ways' engine")
    parser.add_argument("--json", action="store_true", help="print the report instead of the table")
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-transport.json")
    arguments = parser.parse_args()
    mp.set_start_method("spawn")
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-transport.json"
    report = {
        "machine": describe_machine(),
        "commit": commit,
        "versions": {"grpcio": version("grpcio")},
        "frame_bytes": SIDE * SIDE * 3,
        "frames": arguments.frames,
        "engine_ms": arguments.engine_ms,
        "adds_ms": measure(arguments.engine_ms, arguments.frames),
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))
        return
    for name, found in report["adds_ms"].items():
        print(f"{name:14}" + "".join(f"{key:>6} {value:.2f} ms" for key, value in found.items()))
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
