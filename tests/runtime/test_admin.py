"""The Admin service behind the guard: real engines, a line that brings frames, and bundles to swap to."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import psutil
import pytest

from agvas_runtime import console
from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.cli_swap import swap as swap_command
from agvas_runtime.frames import read_image
from agvas_runtime.proto.agvas.v1 import admin_pb2 as pb
from agvas_runtime.proto.agvas.v1 import admin_pb2_grpc as pb_grpc
from agvas_runtime.server.admin import AdminService
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.pool import EnginePool
from agvas_runtime.server.engine.task import EngineSpec, Task
from agvas_runtime.server.guard import Guard
from agvas_runtime.server.lanes import Lanes, NoResult, Ticket
from agvas_runtime.server.recipes import RecipeBook
from agvas_runtime.server.swap import Limits

Phase = pb.SwapEvent
SPEC = EngineSpec(threads=1, max_batch=1)
WAIT_S = 60.0
NO_HURRY = 1000.0
"""How much slower a candidate may be in these tests, which share their cores."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Bundles: two that are alike but for their names, one that answers otherwise, one with an altered byte."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("twin", "second", "other", "altered"):
        shutil.copytree(default_bundle_path(), folder / name)
        manifest = Bundle.open(folder / name).manifest
        model = manifest.model.model_copy(update={"threshold": 1.0} if name == "other" else {})
        write_manifest(folder / name, manifest.model_copy(update={"name": name, "model": model}))
    tokenizer = folder / "altered" / "tokenizer.json"
    data = tokenizer.read_bytes()
    tokenizer.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    return folder


class Server:
    """The Admin service, its engines, and a line of two cameras that bring frames while `running`."""

    def __init__(self, root, recipes, images):
        self.arena, self.lanes = Arena(64 << 20), Lanes()
        self.pool = EnginePool(SPEC, self.lanes, self.arena)
        self.pool.start()
        self.statistics = pb.Statistics(uptime_s=1.5)
        self.book = RecipeBook(recipes)
        self.service = AdminService(
            self.pool, self.arena, SPEC, self.book, root, drain=lambda: 7, statistics=lambda: self.statistics
        )
        self._guard = Guard()
        self._grpc = grpc.server(ThreadPoolExecutor(8), interceptors=[self._guard])
        pb_grpc.add_AdminServicer_to_server(self.service, self._grpc)
        self.address = f"127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._grpc.start()
        self.running = threading.Event()
        self.answered: list[str] = []
        self.failed: list[Exception] = []
        self._closed = False
        self._cameras = [threading.Thread(target=self._bring, args=(image,)) for image in images]
        for camera in self._cameras:
            camera.start()

    def _bring(self, image):
        lane = self.lanes.open("camera", "block", 1)
        while self.running.wait() and not self._closed:
            ticket = Ticket(self.arena.place(image), Task())
            lane.offer(ticket)
            try:
                answered = ticket.outcome.result()
            except NoResult as error:
                self.failed.append(error)
                continue
            self.answered.append(answered.facts.name)
            answered.block.release()

    def close(self):
        self._closed = True
        self.running.set()
        for camera in self._cameras:
            camera.join()
        self._grpc.stop(0).wait()
        self._guard.close()
        self.pool.stop(5)
        self.book.close()
        self.arena.close()


@pytest.fixture(scope="module")
def running(root, tmp_path_factory, photo):
    recipes = tmp_path_factory.mktemp("recipes")
    (recipes / "bolt.yaml").write_text("instruction: Please segment the scratches in this image.")
    other = sorted(photo.parent.iterdir())[2]
    server = Server(root, recipes, [read_image(photo), read_image(other)])
    yield server
    server.close()


@pytest.fixture
def server(running):
    """With the line standing still. Whatever a test does, no frame is lost and no engine is left over."""
    yield running
    running.running.clear()
    running.statistics.draining, running.statistics.reason = False, ""
    assert running.failed == []
    for pid in others(running):
        assert ended(pid)
    assert psutil.pid_exists(running.pool.facts.pid)


@pytest.fixture
def line(server):
    """With frames coming."""
    server.running.set()
    return server


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.AdminStub(channel)


def request(bundle: str, frames: int = 0, **fields) -> pb.SwapRequest:
    return pb.SwapRequest(bundle=bundle, shadow_frames=frames, **{"max_slowdown": NO_HURRY} | fields)


def others(server) -> set[int]:
    """Engines that are not in service."""
    return {child.pid for child in psutil.Process().children() if is_engine(child)} - {server.pool.facts.pid}


def is_engine(child: psutil.Process) -> bool:
    """Whether it is an engine process that has not ended."""
    with suppress(psutil.NoSuchProcess):
        return "agvas_runtime.server.engine.worker" in child.cmdline()
    return False


def ended(pid: int) -> bool:
    """Wait for the end of a process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], WAIT_S)[0])
    finally:
        os.close(descriptor)


def refusal(stub, asked: pb.SwapRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Swap(asked, timeout=WAIT_S))
    return caught.value.code(), caught.value.details()


def test_a_bundle_that_agrees_takes_over_and_no_frame_is_lost(line, stub, photo):
    old = line.pool.facts.name
    (engine,) = line.pool._dispatchers
    engine.engine.restarts, engine.engine.last_death = 3, "killed by signal 9"
    first, *shadow, last = stub.Swap(request("twin", 12), timeout=WAIT_S)
    assert (first.phase, getattr(first, "from").name) == (Phase.PHASE_LOADING, old)
    assert {event.phase for event in shadow} == {Phase.PHASE_SHADOW}
    frames = [event.comparison.frames for event in shadow]
    assert frames == sorted(frames)
    assert len(frames) > 1
    assert (last.phase, last.reason, last.to.name) == (Phase.PHASE_SWITCHED, "", "twin")
    assert (last.comparison.frames, last.comparison.same_verdict, last.comparison.mean_iou) == (12, 12, 1.0)
    assert line.pool.facts.name == "twin"
    assert [(each.restarts, each.last_death) for each in line.pool.engines()] == [(3, "killed by signal 9")]
    assert line.pool.facts.bundle_sha256 == last.to.bundle_sha256 != getattr(last, "from").bundle_sha256
    ticket = Ticket(line.arena.place(read_image(photo)), Task())
    line.lanes.open("mine", "block", 1).offer(ticket)
    answered = ticket.outcome.result(WAIT_S)
    assert answered.facts.name == "twin"
    answered.block.release()


def test_a_dry_run_leaves_everything_as_it_was(line, stub):
    before = line.pool.facts
    *_, last = stub.Swap(request("second", 5, dry_run=True), timeout=WAIT_S)
    assert (last.phase, last.comparison.frames, last.to.name) == (Phase.PHASE_COMPARED, 5, "second")
    assert line.pool.facts is before


def test_a_bundle_that_answers_otherwise_is_refused_with_numbers(line, stub):
    before = line.pool.facts
    *_, last = stub.Swap(request("other", 3), timeout=WAIT_S)
    assert last.phase == Phase.PHASE_REFUSED
    assert last.reason == "3 of 3 frames have another verdict (100.0%), expected at most 1.0%"
    assert last.comparison.mean_iou == 0.0
    assert line.pool.facts is before


def test_a_bundle_with_an_altered_byte_is_refused_by_its_name(server, stub, root):
    before = server.pool.facts
    code, text = refusal(stub, request("altered"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("bundle: altered: tokenizer.json is altered (sha256 ")
    assert str(root) not in text
    assert server.pool.facts is before


def test_what_names_no_bundle_has_its_status(server, stub):
    assert refusal(stub, request("none"))[0] is grpc.StatusCode.NOT_FOUND
    assert refusal(stub, request("../bundles/twin"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(stub, request("twin", min_iou=2)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "min_iou: found 2.0, input should be less than or equal to 1",
    )


def test_a_line_that_brings_no_frames_refuses_the_bundle(server, stub):
    before = server.pool.facts
    *_, last = stub.Swap(request("second", 5, shadow_timeout_s=0.2), timeout=WAIT_S)
    assert (last.phase, last.reason) == (Phase.PHASE_REFUSED, "the line brought 0 of 5 frames within 0.2 s")
    assert server.pool.facts is before


def test_a_candidate_that_dies_never_serves(line, stub):
    before = line.pool.facts
    events = stub.Swap(request("second", 100_000), timeout=WAIT_S)
    while next(events).phase != Phase.PHASE_SHADOW:
        pass
    (candidate,) = others(line)
    os.kill(candidate, signal.SIGKILL)
    *_, last = events
    assert last.phase == Phase.PHASE_REFUSED
    assert last.reason.endswith("frames: killed by signal 9")
    assert line.pool.facts is before


def test_one_swap_at_a_time_and_a_caller_who_leaves_calls_it_off(line, stub):
    before = line.pool.facts
    events = stub.Swap(request("second", 100_000), timeout=WAIT_S)
    while next(events).phase != Phase.PHASE_SHADOW:
        pass
    code, text = refusal(stub, request("twin"))
    assert (code, text) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "another swap is under way: wait for its end, or cancel it",
    )
    (candidate,) = others(line)
    os.kill(candidate, signal.SIGSTOP)  # it would never be done with its frame
    events.cancel()
    assert line.service._swapping.acquire(timeout=WAIT_S)
    line.service._swapping.release()
    assert ended(candidate)
    assert line.pool.facts is before
    assert line.pool.observe is None


def test_a_caller_who_leaves_while_the_bundle_loads_calls_it_off(server, stub):
    before = server.pool.facts
    events = stub.Swap(request("second"), timeout=WAIT_S)
    assert next(events).phase == Phase.PHASE_LOADING
    events.cancel()
    assert server.service._swapping.acquire(timeout=WAIT_S)
    server.service._swapping.release()
    assert server.pool.facts is before


@pytest.mark.parametrize("reason", ["the server is being stopped", "the server is drained: it takes no new frames"])
def test_a_server_that_takes_no_frames_any_more_swaps_nothing_and_says_why(server, stub, reason):
    server.statistics.draining, server.statistics.reason = True, reason
    assert refusal(stub, request("second")) == (grpc.StatusCode.FAILED_PRECONDITION, reason)


def test_recipes_are_read_again_and_told(server, stub):
    folder = server.book._folder
    (folder / "nut.yaml").write_text("threshold: 2")
    bolt, nut = stub.ReloadRecipes(pb.ReloadRecipesRequest()).recipes
    assert (bolt.name, bolt.sha256, bolt.error) == ("bolt", server.book.get("bolt").sha256, "")
    assert (nut.name, nut.sha256) == ("nut", "")
    assert nut.error == "nut.yaml: threshold: found 2.0, input should be less than or equal to 1"


def test_drain_and_statistics_are_the_servers(server, stub):
    assert stub.Drain(pb.DrainRequest()).answered == 7
    assert stub.GetStatistics(pb.GetStatisticsRequest()) == server.statistics


# --- the command


def command(capsys, *args: str) -> tuple[int, str, str]:
    app = console.make_app("swap")
    app.command()(swap_command)
    with pytest.raises(SystemExit) as ended:
        console.run(app, args)
    return ended.value.code, *capsys.readouterr()


def test_the_command_compares_and_switches(line, capsys):
    where = ("--server", line.address, "--max-slowdown", "1000", "--shadow", "3")
    code, out, err = command(capsys, "second", "--dry-run", *where)
    assert (code, err) == (0, "loading\nshadow\n")
    assert "3 frames: 3 with the same verdict (100.0%)" in out
    assert "within the limits; twin goes on serving" in out
    code, out, err = command(capsys, "second", "--json", *where)
    document = json.loads(out)
    assert (code, document["outcome"], document["from"]["name"]) == (0, "switched", "twin")
    assert document["comparison"]["same_verdict"] == 3
    assert line.pool.facts.name == "second"


def test_the_command_says_why_a_bundle_is_refused(line, capsys):
    code, out, err = command(capsys, "other", "--server", line.address, "--shadow", "2", "--max-slowdown", "1000")
    assert code == 1
    assert "error: other is refused: 2 of 2 frames have another verdict (100.0%), expected at most 1.0%" in err
    assert "2 frames: 0 with the same verdict" in out


def test_bad_input_of_the_command_has_exit_code_2(server, capsys, tmp_path):
    code, out, err = command(capsys, "none", "--server", server.address)
    assert (code, out) == (2, "")
    assert err.endswith("error: bundle: found no 'none' below the bundle root\n")
    code, _, err = command(capsys, "twin", "--server", server.address, "--token-file", str(tmp_path / "none"))
    assert (code, err) == (2, f"error: {tmp_path}/none: found no token: no such file or directory\n")
    code, _, err = command(capsys, "twin", "--server", server.address, "--timeout", "0")
    assert (code, err) == (2, "error: --timeout: found 0.0, input should be greater than 0\n")


@pytest.mark.parametrize(("frames", "expected"), [(100_000, 1), (100_001, 2)])
def test_more_frames_than_a_server_compares_are_refused_before_it_is_called(capsys, frames, expected):
    assert Limits(shadow_frames=100_000)
    code, _, err = command(capsys, "twin", "--server", "127.0.0.1:1", "--shadow", str(frames))
    assert (code, "--shadow" in err) == (expected, expected == 2)


def test_a_server_that_is_not_there_is_a_failure(capsys):
    code, _, err = command(capsys, "twin", "--server", "127.0.0.1:1")
    assert code == 1
    assert err.startswith("error: 127.0.0.1:1: ")


def test_an_interrupt_of_the_command_calls_the_swap_off(line):
    before = line.pool.facts
    script = (
        "from agvas_runtime import console, cli_swap\n"
        "app = console.make_app('swap')\n"
        "app.command()(cli_swap.swap)\n"
        "console.run(app)\n"
    )
    args = [sys.executable, "-c", script, "twin", "--server", line.address, "--shadow", "100000"]
    with subprocess.Popen(args, stderr=subprocess.PIPE, text=True) as process:
        for said in process.stderr:
            if said == "shadow\n":
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert (process.returncode, rest) == (130, "cancelled; the server goes on with the bundle it has\n")
    assert line.service._swapping.acquire(timeout=WAIT_S)
    line.service._swapping.release()
    assert line.pool.facts is before
