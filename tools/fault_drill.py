"""Everything goes wrong at once: does every frame get its one answer? `make proof-drill`; in the tests a short form.

Eight cameras stream at mixed rates, some dropping stale frames, some held back. Meanwhile an engine process is killed
three times, a client vanishes in the midst of a frame, another sends garbage, one stops reading, the bundle is swapped
with a shadow run, a recipe is rewritten, and rewritten wrongly. Then the server has ten seconds of rest, and its memory
is looked at.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import grpc

from agvas_runtime import console
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.proto.agvas.v1 import admin_pb2, admin_pb2_grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import client_options

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
from tools.resident import resident_bytes  # noqa: E402

FRAMES = REPOSITORY / "agvas_runtime" / "demo" / "frames"
RATES = (2.0, 3.0, 5.0, 5.0, 8.0, 10.0, 20.0, 30.0)
"""Frames a second of the cameras; together more than two cores answer."""
KILLS, IDLE_S, END_S = 3, 10.0, 30.0
WINDOW = 8
"""Frames that a camera which drops none has on their way at most."""
MOST_GROWTH = 1.05
RECIPE = "min_area_px: {area}\non_no_answer: stop\n"

VANISHING = """
import sys, grpc
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb, inspection_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import client_options
def frames():
    yield pb.InspectRequest(open=pb.CameraStream(camera_id="vanishing", policy=pb.QUEUE_POLICY_BLOCK))
    raw = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_RGB8, width=3000, height=3000, data=bytes(27_000_000))
    while True:
        yield pb.InspectRequest(frame=pb.SegmentRequest(frame=pb.Frame(raw=raw)))
with grpc.insecure_channel(sys.argv[1], options=client_options()) as channel:
    for number, answer in enumerate(pb_grpc.InspectionStub(channel).Inspect(frames())):
        if number == 1:
            print("sending", flush=True)
"""


class Camera(threading.Thread):
    """Streams frames at its rate until it is told to stop, and keeps every answer's number and status."""

    def __init__(self, address: str, number: int, rate: float, ended: threading.Event) -> None:
        super().__init__(name=f"camera {number}", daemon=True)
        self.number, self.rate, self._address, self._ended = number, rate, address, ended
        self.sent = 0
        self.answers: list[int] = []
        self.statuses: Counter[str] = Counter()
        self.gates: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.wrong: list[str] = []
        self.heartbeats = 0
        self.models: Counter[str] = Counter()
        self._sent_at: list[float] = []

    def run(self) -> None:
        """One stream from its opening to its end."""
        try:
            with grpc.insecure_channel(self._address, options=client_options()) as channel:
                for event in pb_grpc.InspectionStub(channel).Inspect(self._messages()):
                    if event.WhichOneof("event") == "answer":
                        self._keep(event.answer)
                    else:
                        self.heartbeats += 1
        except grpc.RpcError as error:
            self.wrong.append(f"the stream ended with {error.code().name}: {error.details()}")

    def _messages(self) -> Iterator[pb.InspectRequest]:
        block = self.number % 2 == 0
        opening = pb.CameraStream(
            camera_id=f"camera-{self.number}",
            policy=pb.QUEUE_POLICY_BLOCK if block else pb.QUEUE_POLICY_LATEST,
            defaults=pb.SegmentRequest(recipe_name="line", mask_format=pb.MASK_FORMAT_PACKED_BITS),
        )
        if self.number % 3 == 0:
            opening.defaults.deadline_ms = 400
        yield pb.InspectRequest(open=opening)
        files = [path.read_bytes() for path in sorted(FRAMES.glob("*.jpg"))]
        due = time.monotonic()
        while not self._ended.is_set():
            if block and self.sent - len(self.answers) >= WINDOW:  # it wants all answers, and soon
                self._ended.wait(0.01)
                continue
            frame = pb.Frame(encoded=files[self.sent % len(files)])
            frame.identity.sequence, frame.identity.part_id = self.sent, f"part {self.sent}"
            self._sent_at.append(time.monotonic())
            self.sent += 1
            yield pb.InspectRequest(frame=pb.SegmentRequest(frame=frame))
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            self._ended.wait(max(due - time.monotonic(), 0))

    def _keep(self, answer: pb.SegmentResponse) -> None:
        number = len(self.answers)
        self.answers.append(answer.index)
        status = pb.FrameStatus.Name(answer.status).removeprefix("FRAME_STATUS_")
        self.statuses[status] += 1
        if answer.status == pb.FRAME_STATUS_OK:
            self.latencies.append(time.monotonic() - self._sent_at[number])
            self.models[answer.model.bundle_sha256[:12]] += 1
            if answer.width == 0 or not answer.mask.data:
                self.wrong.append(f"frame {number} is OK and has no mask")
        elif (answer.verdict, answer.gate) != (pb.VERDICT_NO_ANSWER, pb.GATE_STOP):
            self.wrong.append(f"frame {number} is {status} and its gate {pb.Gate.Name(answer.gate)}")
        if (answer.identity.sequence, answer.identity.part_id) != (number, f"part {number}"):
            self.wrong.append(f"answer {number} belongs to {answer.identity.part_id}")

    def faults(self) -> list[str]:
        """What is wrong with what it got."""
        wrong = list(self.wrong)
        if self.is_alive():
            wrong.append("still waits for answers")
        if self.answers != list(range(self.sent)):
            wrong.append(
                f"{self.sent} frames, {len(self.answers)} answers, in order: {self.answers == sorted(self.answers)}"
            )
        return [f"{self.name}: {each}" for each in wrong]


class StoppedReader:
    """Sends frames and never takes an answer."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=client_options())
        self._ended = threading.Event()
        self._call = pb_grpc.InspectionStub(self._channel).Inspect(self._messages())
        self.sent = 0

    def _messages(self) -> Iterator[pb.InspectRequest]:
        defaults = pb.SegmentRequest(probability_format=pb.PROBABILITY_FORMAT_FLOAT32)
        yield pb.InspectRequest(open=pb.CameraStream(camera_id="does not read", defaults=defaults))
        data = next(FRAMES.glob("*.jpg")).read_bytes()
        while not self._ended.wait(0.05):
            self.sent += 1
            yield pb.InspectRequest(frame=pb.SegmentRequest(frame=pb.Frame(encoded=data)))

    def close(self) -> None:
        """Go away."""
        self._ended.set()
        self._call.cancel()
        self._channel.close()


def kill_engine(admin: admin_pb2_grpc.AdminStub, killed: set[int]) -> dict[str, Any]:
    """SIGKILL an engine process that was not killed yet, once one is ready."""
    deadline = time.monotonic() + END_S
    while time.monotonic() < deadline:
        for engine in admin.GetStatistics(admin_pb2.GetStatisticsRequest()).engines:
            if engine.ready and engine.pid not in killed:
                killed.add(engine.pid)
                os.kill(engine.pid, signal.SIGKILL)
                return {"event": "engine killed", "pid": engine.pid}
        time.sleep(0.05)
    raise RuntimeError("no engine became ready again")


def vanish(address: str) -> dict[str, Any]:
    """A client that is killed while it sends."""
    process = subprocess.Popen([sys.executable, "-c", VANISHING, address], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
    return {"event": "client vanished", "was": found}


def garbage(port: int) -> dict[str, Any]:
    """A client that speaks no HTTP/2."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(os.urandom(100_000))
        try:
            while connection.recv(4096):
                pass
            closed = True
        except ConnectionError:
            closed = True
        except TimeoutError:
            closed = False
    return {"event": "garbage sent", "connection closed": closed}


def swap(admin: admin_pb2_grpc.AdminStub, shadow: int) -> dict[str, Any]:
    """Change to the other bundle, after a shadow run."""
    request = admin_pb2.SwapRequest(bundle="other", shadow_frames=shadow, max_slowdown=10, shadow_timeout_s=60)
    *_, last = admin.Swap(request, timeout=120)
    phase = admin_pb2.SwapEvent.Phase.Name(last.phase).removeprefix("PHASE_")
    return {"event": "swap", "ended": phase, "reason": last.reason, "shadow_frames": last.comparison.frames}


def other_bundle(root: Path) -> None:
    """The embedded bundle under another name, so that it has another hash."""
    shutil.copytree(default_bundle_path(), root / "other")
    manifest = Bundle.open(root / "other").manifest
    write_manifest(root / "other", manifest.model_copy(update={"name": f"{manifest.name}-other"}))


def drill(seconds: float, kills: int = KILLS, shadow: int = 40, idle_s: float = IDLE_S) -> dict[str, Any]:
    """Run it against a server of its own; what happened, what every camera got, what was wrong."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "recipes").mkdir()
        recipe = folder / "recipes" / "line.yaml"
        recipe.write_text(RECIPE.format(area=5), "utf-8")
        other_bundle(folder / "bundles")
        arguments = [
            "--recipes",
            str(folder / "recipes"),
            "--bundle-root",
            str(folder / "bundles"),
            "--log-level",
            "error",
            "--max-batch",
            "1",  # else a process has 10 MB more or not, as it happens to measure whether frames together pay
        ]
        server = stack.enter_context(server_process(arguments))
        address = f"127.0.0.1:{server.port}"
        channel = stack.enter_context(grpc.insecure_channel(address, options=client_options()))
        admin = admin_pb2_grpc.AdminStub(channel)

        _stream(address, min(seconds / 6, 8.0))  # so that the start is that of a server at work
        time.sleep(idle_s)
        before = sum(resident_bytes(server.process.pid).values())

        events: list[dict[str, Any]] = []
        killed: set[int] = set()
        reader = StoppedReader(address)
        plan: list[Callable[[], dict[str, Any]]] = [
            lambda: kill_engine(admin, killed),
            lambda: garbage(server.port),
            lambda: _rewrite(admin, recipe, RECIPE.format(area=20), broken=False),
            lambda: vanish(address),
            lambda: swap(admin, shadow),
            lambda: _rewrite(admin, recipe, "min_area_px: [", broken=True),
            lambda: kill_engine(admin, killed),
        ]
        plan += [lambda: kill_engine(admin, killed)] * (kills - 2)
        faults: list[str] = []

        def run_plan() -> None:
            began = time.monotonic()
            for number, step in enumerate(plan[: len(plan) + min(kills - 2, 0)]):
                time.sleep(max(began + (number + 1) * seconds / (len(plan) + 2) - time.monotonic(), 0))
                try:
                    events.append({"at_s": round(time.monotonic() - began, 1), **step()})
                except Exception as error:
                    faults.append(f"step {number}: {type(error).__name__}: {error}")

        cameras = _stream(address, seconds, run_plan)
        reader.close()
        time.sleep(idle_s)
        after = sum(resident_bytes(server.process.pid).values())
        statistics = admin.GetStatistics(admin_pb2.GetStatisticsRequest())
        faults += [fault for camera in cameras for fault in camera.faults()]
        faults += _faults_of(events, kills)
        if server.process.poll() is not None:
            faults.append(f"the server ended with exit code {server.process.returncode}")
        if after > MOST_GROWTH * before:
            faults.append(f"memory grew from {before} to {after} bytes")
    return {
        "seconds": seconds,
        "events": events,
        "cameras": [_of(camera) for camera in cameras],
        "frames": sum(camera.sent for camera in cameras),
        "answers": sum(len(camera.answers) for camera in cameras),
        "frames of the client that does not read": reader.sent,
        "engine_restarts": sum(engine.restarts for engine in statistics.engines),
        "memory_bytes": {"before": before, "after": after, "ratio": after / before},
        "faults": faults,
    }


def _stream(address: str, seconds: float, beside: Callable[[], None] | None = None) -> list[Camera]:
    """All cameras for so long."""
    ended = threading.Event()
    cameras = [Camera(address, number, rate, ended) for number, rate in enumerate(RATES)]
    for camera in cameras:
        camera.start()
    thread = threading.Thread(target=beside or (lambda: None), daemon=True)
    thread.start()
    time.sleep(seconds)
    thread.join(END_S * 3)
    ended.set()
    for camera in cameras:
        camera.join(END_S)
    return cameras


def _rewrite(admin: admin_pb2_grpc.AdminStub, recipe: Path, text: str, *, broken: bool) -> dict[str, Any]:
    recipe.write_text(text, "utf-8")
    (state,) = admin.ReloadRecipes(admin_pb2.ReloadRecipesRequest()).recipes
    if bool(state.error) != broken or not state.sha256:
        raise RuntimeError(f"the recipe is {state}")
    return {"event": "recipe rewritten", "error": state.error}


def _faults_of(events: list[dict[str, Any]], kills: int) -> list[str]:
    faults = [f"{event}" for event in events if event["event"] == "swap" and event["ended"] != "SWITCHED"]
    faults += [f"{event}" for event in events if event.get("connection closed") is False]
    killed = sum(event["event"] == "engine killed" for event in events)
    return faults if killed == kills else [*faults, f"{killed} engines were killed, expected {kills}"]


def _of(camera: Camera) -> dict[str, Any]:
    latencies = sorted(camera.latencies) or [0.0]
    return {
        "camera": camera.number,
        "rate": camera.rate,
        "frames": camera.sent,
        "answers": len(camera.answers),
        "statuses": dict(camera.statuses),
        "bundles": dict(camera.models),
        "heartbeats": camera.heartbeats,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "max_ms": latencies[-1] * 1000,
    }


def main() -> None:
    """Run the drill, write the JSON; exit 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = {"machine": describe_machine(), **drill(options.seconds)}
    name = f"{date.today()}-{git_commit(REPOSITORY) or 'unknown'}-drill.json"
    (options.out or REPOSITORY / "benchmarks" / "full" / name).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    console.print_json({name: value for name, value in report.items() if name != "machine"})
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()
