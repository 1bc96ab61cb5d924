"""Sends hostile requests to a running server and looks at what each gets: `make proof-fuzz`.

Allowed are a valid result, a documented status whose text names the field (calls), INVALID for a frame (streams), a
closed connection for bytes that are not HTTP/2. A malformed gRPC frame header is answered by gRPC's own core and
counted apart. Never UNKNOWN, never INTERNAL; the server neither dies nor grows. A failing case is made again by its
seed and number.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import grpc

from agvas_runtime import console
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import ServerProcess, server_process
from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc, inspection_pb2
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from tools.fuzz_cases import BOTH_WAYS, STREAMED, Call, Case, Random, Wire, cases, small_image  # noqa: E402
from tools.resident import resident_bytes  # noqa: E402

THREADS, TIMEOUT_S, IDLE_S, MOST_GROWTH = 8, 60.0, 10.0, 1.05
FIELDS = {"message", "service"} | {
    name
    for file in (inspection_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)
    for message in file.message_types_by_name.values()
    for name in (*message.fields_by_name, *message.oneofs_by_name)
}
"""One of these must stand in the text of an INVALID_ARGUMENT."""
ALLOWED = {
    "OK",
    "INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "DEADLINE_EXCEEDED",
}
INSTRUCTIONS = 200
"""More than the 32 MiB hold that an engine keeps of them."""
GET_RESULTS = {"mutated requests", "odd fields", "images", "streams"}
"""Kinds of which many are valid all the same."""
STATUSES = {pb.FRAME_STATUS_OK, pb.FRAME_STATUS_INVALID, pb.FRAME_STATUS_DROPPED, pb.FRAME_STATUS_EXPIRED}


class Wrong(Exception):
    """A case was not answered as it must be."""


class Sender:
    """Sends cases to one server; a channel a thread."""

    def __init__(self, port: int) -> None:
        self._port, self._local = port, threading.local()

    def outcome(self, case: Case) -> str:
        """What the case got, in a word or two; raises Wrong where that is not allowed."""
        if isinstance(case, Wire):
            return self._wire(case)
        try:
            return self._stream(case) if case.method in BOTH_WAYS else self._call(case)
        except grpc.RpcError as error:
            return _allowed(error)

    def _channel(self) -> grpc.Channel:
        if not hasattr(self._local, "channel"):
            options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
            self._local.channel = grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options)
        return self._local.channel

    def _call(self, case: Call) -> str:
        options: dict[str, Any] = {"timeout": TIMEOUT_S, "metadata": case.metadata or None}
        if case.gzip:
            options["compression"] = grpc.Compression.Gzip
        if case.method in STREAMED:
            call = self._channel().unary_stream(case.method)(case.messages[0], **options)
            for _ in call:  # to its end, but for a watcher, who waits for ever
                if case.method.endswith("/Watch"):
                    call.cancel()
                    break
        else:
            self._channel().unary_unary(case.method)(case.messages[0], **options)
        return "OK"

    def _stream(self, case: Call) -> str:
        stop = threading.Event()

        def messages() -> Iterator[bytes]:
            yield from case.messages
            while case.endless and not stop.is_set():
                yield case.messages[-1]

        call = self._channel().stream_stream(case.method)(messages(), timeout=TIMEOUT_S, metadata=case.metadata or None)
        answers = []
        try:
            for data in call:
                if "Inspect" not in case.method:
                    continue
                event = pb.InspectResponse.FromString(data)
                if event.WhichOneof("event") == "answer":
                    answers.append(event.answer)
                if case.leave or (case.endless and len(answers) > 50):
                    return "left"
        finally:
            stop.set()
            call.cancel()
        if "Inspect" in case.method:
            if case.frames < 0:
                raise Wrong(f"a stream that was opened wrongly ended with OK after {len(answers)} answers")
            if [answer.index for answer in answers] != list(range(case.frames)):
                raise Wrong(f"{case.frames} frames got the answers {[answer.index for answer in answers]}")
            for answer in answers:
                if answer.status not in STATUSES:
                    raise Wrong(f"status {pb.FrameStatus.Name(answer.status)}: {answer.reason}")
                if answer.status == pb.FRAME_STATUS_INVALID and not _names_a_field(answer.reason):
                    raise Wrong(f"INVALID names no field: {answer.reason}")
        return "OK"

    def _wire(self, case: Wire) -> str:
        with socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S) as connection:
            try:
                connection.sendall(case.data)
                if case.half_close:
                    connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
            except TimeoutError:
                raise Wrong("the connection stays open") from None
        return "gRPC frame" if case.grpc_frame else "closed"


def _allowed(error: grpc.RpcError) -> str:
    code, text = error.code().name, error.details() or ""
    if code not in ALLOWED or (code == "DEADLINE_EXCEEDED" and not text.startswith("the deadline of")):
        raise Wrong(f"{code}: {text}") from None
    if code == "INVALID_ARGUMENT" and not _names_a_field(text):
        raise Wrong(f"{code} names no field: {text}") from None
    if "\n" in text:
        raise Wrong(f"{code}: more than one line: {text!r}") from None
    return code


def _names_a_field(text: str) -> bool:
    return bool(FIELDS & set(re.findall(r"\w+", text)))


def fuzz(port: int, pid: int, seed: int, count: int, first: int = 0, idle_s: float = IDLE_S) -> dict[str, Any]:
    """Send the cases; what they got, what was wrong, and the server's memory before and after."""
    sender, counts = Sender(port), Counter[tuple[str, str]]()
    wrong: list[dict[str, Any]] = []
    lock = threading.Lock()

    def one(numbered: tuple[int, str, Case]) -> None:
        index, kind, case = numbered
        try:
            outcome = sender.outcome(case)
        except Exception as error:
            with lock:
                counts[kind, "wrong"] += 1
                if len(wrong) < 50:
                    what = {"case": index, "kind": kind, "method": getattr(case, "method", "")}
                    wrong.append({**what, "error": f"{type(error).__name__}: {error}"[:500]})
            return
        with lock:
            counts[kind, outcome] += 1

    def run(begin: int, end: int, label: str) -> None:
        gate = threading.BoundedSemaphore(THREADS * 4)
        with ThreadPoolExecutor(THREADS) as threads:
            numbered = (each for each in cases(seed, end) if each[0] >= begin)
            for each in console.progress(numbered, label, total=end - begin):
                gate.acquire()
                threads.submit(one, each).add_done_callback(lambda _: gate.release())

    began_restarts = _restarts(port)
    _fill_caches(port)
    warm = max(count // 20, min(count // 2, 1000))
    run(first, first + warm, "first cases")
    time.sleep(idle_s)
    before, began = sum(resident_bytes(pid).values()), time.perf_counter()
    run(first + warm, first + count, "cases")
    seconds = time.perf_counter() - began
    time.sleep(idle_s)
    after = sum(resident_bytes(pid).values())
    wrong += [{"case": None, "error": error} for error in _faults_after(port, counts, began_restarts)]
    return {
        "seed": seed,
        "cases": count,
        "seconds": seconds,
        "outcomes": {f"{kind}: {outcome}": number for (kind, outcome), number in sorted(counts.items())},
        "wrong": wrong,
        "wrong_count": len(wrong) + sum(number for (_, outcome), number in counts.items() if outcome == "wrong"),
        "memory_bytes": {"before": before, "after": after, "ratio": after / before},
    }


def _fill_caches(port: int) -> None:
    """Let the server prepare more instructions than it keeps: what it may keep is no growth."""
    image = small_image(Random(0))
    with Client(f"127.0.0.1:{port}") as client:
        for number in range(INSTRUCTIONS):
            client.segment(image, f"Please segment the defects of kind {number} in this image.", mask="none")


def _restarts(port: int) -> int:
    """How often an engine of the server was started again: a case that kills one is answered by the next."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        statistics = admin_pb2_grpc.AdminStub(channel).GetStatistics(
            admin_pb2.GetStatisticsRequest(), timeout=TIMEOUT_S
        )
    return sum(engine.restarts for engine in statistics.engines)


def _faults_after(port: int, counts: Counter[tuple[str, str]], restarts: int) -> Iterator[str]:
    """What is wrong with the server at the end: it must still answer, as it did all the while."""
    of_kind: Counter[str] = Counter()
    for (kind, _), number in counts.items():
        of_kind[kind] += number
    yield from (
        f"{kind}: none of {number} got a result"
        for kind, number in of_kind.items()
        if kind in GET_RESULTS and number >= 30 and not counts[kind, "OK"]
    )
    if (now := _restarts(port)) != restarts:
        yield f"engines died {now - restarts} times"
    image = small_image(Random(0))
    with Client(f"127.0.0.1:{port}") as client:
        client.wait_ready()
        client.segment(image)
        statuses = [reply.status for reply in client.inspect([image, image])]
    if statuses != ["ok", "ok"]:
        yield f"after all a stream gets {statuses}"


@contextmanager
def fuzzed_server() -> Iterator[ServerProcess]:
    """A server with recipes and a folder of bundles, so that their names can be tried, too."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bundle").mkdir()
        recipes = REPOSITORY / "deploy" / "recipes"
        arguments = ("--recipes", str(recipes), "--bundle-root", folder, "--log-level", "error")
        with server_process(arguments) as server:
            yield server


def main() -> None:
    """Start a server, send, write the JSON; exit 1 where anything was not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with fuzzed_server() as server:
        report = fuzz(server.port, server.process.pid, options.seed, options.requests)
        report["alive"] = server.process.poll() is None
    report = {"machine": describe_machine(), **report}
    name = f"{date.today()}-{git_commit(REPOSITORY) or 'unknown'}-fuzz.json"
    out = options.out or REPOSITORY / "benchmarks" / "full" / name
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print_json({name: value for name, value in report.items() if name != "machine"})
    good = report["alive"] and not report["wrong"] and report["memory_bytes"]["ratio"] <= MOST_GROWTH
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
