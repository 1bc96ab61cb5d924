"""A camera's line: one decision for every part, whatever becomes of the server and of the camera."""

import json
import os
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import trustme
from PIL import Image

from agvas_runtime.camera.folder import FolderSource
from agvas_runtime.camera.gate import MOST_IMAGES, Gate
from agvas_runtime.camera.source import Captured, CaptureOptions, SourceLostError
from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.errors import InputError
from agvas_runtime.local_client import LocalClient
from agvas_runtime.server.tls import read_ca
from agvas_runtime.verdict import Verdict
from agvas_runtime.wire import FrameIdentity, RawFrame
from tests.conftest import DEMO_FRAMES
from tests.runtime.camera_line import Scripted, one_decision_each, port_free, running
from tests.runtime.live_server import IMAGES

FRAME = IMAGES[0]


@pytest.fixture
def address(server):
    return f"127.0.0.1:{server.port}"


@dataclass(frozen=True)
class OwnServer:
    """One that tests may stop and let go on."""

    pid: int
    address: str
    socket: Path

    @contextmanager
    def hanging(self):
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    socket = tmp_path_factory.mktemp("server") / "socket"
    with server_process(["--local", str(socket)]) as running:
        yield OwnServer(running.process.pid, f"127.0.0.1:{running.port}", socket)


@pytest.fixture
def gate():
    told = []
    gate = Gate("left", 1.0, "stop", told.append, keep_images=True)
    gate.told = told
    return gate


def reply_to(client, gate, part):
    return client.segment(FRAME, identity=gate.identity(part))


def test_a_part_is_decided_once_by_whoever_is_first(client, gate):
    first, second = gate.admit(Captured(FRAME)), gate.admit(Captured(FRAME))
    assert gate.no_answer(first, "timed_out", "too late")
    assert not gate.no_answer(first, "unreachable", "gone")
    assert not gate.answer(reply_to(client, gate, first))
    assert gate.answer(reply_to(client, gate, second))
    assert not gate.no_answer(second, "timed_out", "too late")
    assert [(each.sequence, each.status) for each in gate.told] == [(0, "timed_out"), (1, "ok")]
    assert (gate.told[0].gate, gate.told[0].verdict) == ("stop", Verdict.NO_ANSWER)
    assert (gate.late, gate.waiting, gate.parts) == (1, 0, 2)


def test_only_parts_whose_deadline_has_passed_expire(gate):
    old, new = gate.admit(Captured(FRAME, at=0.0)), gate.admit(Captured(FRAME))
    assert gate.next_deadline() == old.deadline
    gate.expire()
    assert (gate.is_open(old), gate.is_open(new)) == (False, True)
    assert gate.told[0].reason == "no answer within 1000 ms of the capture"


def test_frames_are_kept_for_pictures_up_to_a_number(gate):
    parts = [gate.admit(Captured(FRAME)) for _ in range(MOST_IMAGES + 3)]
    assert [part.image is None for part in parts] == [True] * 3 + [False] * MOST_IMAGES


def test_what_is_known_of_a_part_travels_with_it(gate):
    captured = Captured(FRAME, trigger_id="17", part_id="a.png")
    part = gate.admit(captured)
    assert gate.identity(part) == FrameIdentity("left", "a.png", "17", 0, capture_time=captured.capture_time)


def test_every_part_is_answered_by_the_server(address):
    captured = [Captured(image, part_id=str(number)) for number, image in enumerate(IMAGES[:4])]
    with running(Scripted(captured), address, policy="block") as line:
        decisions = line.finish()
    assert [(each.part_id, each.status) for each in decisions] == [(str(number), "ok") for number in range(4)]
    assert {each.gate for each in decisions} == {"pass", "reject"}
    assert [(turn.what, turn.up) for turn in line.turns] == [("server", True), ("camera", True)]


def test_a_broken_frame_is_invalid_is_not_judged_and_the_stream_lives_on(address):
    broken = Captured(None, "8", broken="the frame is not complete: missing packets")
    source = Scripted([Captured(FRAME), broken, Captured(FRAME)])
    with running(source, address, policy="block", on_no_answer="stop") as line:
        decisions = sorted(line.finish(), key=lambda each: each.sequence)
    assert [each.status for each in decisions] == ["ok", "invalid", "ok"]
    assert (decisions[1].gate, decisions[1].reason) == ("stop", broken.broken)


def test_a_frame_that_the_server_finds_wrong_is_invalid_too(address):
    with running(Scripted([Captured(b"no image"), Captured(FRAME)]), address, policy="block") as line:
        assert [each.status for each in line.finish()] == ["invalid", "ok"]


def test_a_camera_that_is_lost_is_opened_again_and_its_numbers_go_on(address):
    source = Scripted(
        [Captured(FRAME), SourceLostError("cable")],
        [RuntimeError("the driver's own")],
        [Captured(FRAME)],
    )
    with running(source, address, policy="block") as line:
        assert one_decision_each(line.finish(), 2)
    turns = [(turn.up, turn.reason) for turn in line.turns if turn.what == "camera"]
    assert turns == [(True, ""), (False, "cable"), (True, "")]
    assert source.closed == 3


def test_what_can_never_work_ends_the_line(address):
    with running(Scripted([InputError("Width: found 9, expected 16")]), address) as line:
        assert line.finish() == []
    assert isinstance(line.line.failure, InputError)
    with running(Scripted([Captured(FRAME)] * 2), address, asked={"recipe_name": "absent"}) as line:
        line.finish()
    assert str(line.line.failure).startswith("recipe_name: found 'absent'")
    assert (line.turns, line.decisions) == ([], [])  # the failure alone is told


def test_without_a_server_every_part_is_decided_by_the_rule_at_once():
    with running(Scripted([Captured(FRAME)] * 5), f"127.0.0.1:{port_free()}", on_no_answer="pass") as line:
        decisions = line.finish()
    assert one_decision_each(decisions, 5)
    assert {(each.status, each.gate) for each in decisions} == {("unreachable", "pass")}


def test_a_server_killed_and_started_again_under_a_camera_gets_no_part_twice():
    frames = FolderSource(DEMO_FRAMES, CaptureOptions(fps=8, loop=True))
    with server_process() as first:
        port = first.port
        with running(frames, f"127.0.0.1:{port}", on_no_answer="stop", deadline_s=5.0) as line:
            line.until(lambda: line.statuses.count("ok") >= 5)
            engines = psutil.Process(first.process.pid).children(recursive=True)
            first.process.kill()
            first.process.wait()
            line.until_turn("server", False)
            line.until(lambda: line.statuses.count("unreachable") >= 4)
            psutil.wait_procs(engines)
            with server_process(["--port", str(port)]):
                answered = line.statuses.count("ok")
                line.until(lambda: line.statuses.count("ok") >= answered + 5)
                line.line.stop()
                decisions = line.finish()
    parts = line.line.gate.parts
    assert one_decision_each(decisions, parts)
    away = [each for each in decisions if each.status == "unreachable"]
    assert {each.gate for each in away} == {"stop"}
    assert len(away) >= 4
    numbers = sorted(each.sequence for each in away)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))  # one gap, answered before and behind it
    assert line.line.gate.late == 0
    assert [turn.up for turn in line.turns if turn.what == "server"] == [True, False, True]


def test_a_server_that_hangs_is_overtaken_by_the_camera_s_own_deadline_and_its_answers_are_late(own_server):
    frames, plan = FolderSource(DEMO_FRAMES, CaptureOptions(fps=10, loop=True)), {"silence_s": 60}
    with running(frames, own_server.address, on_no_answer="stop", deadline_s=0.5, **plan) as line:
        line.until(lambda: line.statuses.count("ok") >= 3)
        with own_server.hanging():
            line.until(lambda: line.statuses.count("timed_out") >= 1)
        line.until(lambda: line.line.gate.late >= 1)
        answered = line.statuses.count("ok")
        line.until(lambda: line.statuses.count("ok") >= answered + 3)
        line.line.stop()
        decisions = line.finish()
    assert one_decision_each(decisions, line.line.gate.parts)
    late = [each for each in decisions if each.status == "timed_out"]
    assert {(each.gate, each.verdict) for each in late} == {("stop", Verdict.NO_ANSWER)}
    assert all(each.latency_ms >= 500 for each in late)


def test_a_silent_server_is_given_up_and_found_again(own_server):
    frames = FolderSource(DEMO_FRAMES, CaptureOptions(fps=10, loop=True))
    with running(frames, own_server.address, deadline_s=0.3, silence_s=1.0) as line:
        line.until(lambda: line.statuses.count("ok") >= 1)
        with own_server.hanging():
            line.until_turn("server", False)
            line.until(lambda: line.statuses.count("unreachable") >= 2)
        answered = line.statuses.count("ok")
        line.until(lambda: line.statuses.count("ok") > answered)
    assert one_decision_each(line.decisions, line.line.gate.parts)
    assert "the server is silent" in [turn.reason for turn in line.turns]


def test_a_server_of_this_machine_gets_its_frames_through_its_socket(own_server):
    pixels = RawFrame(FRAME.tobytes(), 120, 90, "RGB8")
    source = Scripted([Captured(pixels)] * 3 + [Captured(FRAME)])
    with running(source, own_server.socket, policy="block") as line:
        decisions = line.finish()
    assert [each.status for each in decisions] == ["ok"] * 4
    assert len({each.reply.answer for each in decisions}) == 1


def test_a_file_of_the_connection_that_is_being_replaced_is_tried_again(own_server, tmp_path):
    ca = tmp_path / "ca.pem"
    whole = trustme.CA().cert_pem.bytes()
    ca.write_bytes(whole)

    def connect():
        read_ca(ca)  # as every connection with TLS does
        return Client(own_server.address)

    frames = FolderSource(DEMO_FRAMES, CaptureOptions(fps=10, loop=True))
    with running(frames, connect, deadline_s=0.3, silence_s=1.0) as line:
        line.until(lambda: line.statuses.count("ok") >= 1)
        ca.write_bytes(whole[:300])
        with own_server.hanging():
            line.until(lambda: any("found no certificate" in each.reason for each in line.decisions))
        assert line.line.failure is None
        ca.write_bytes(whole)
        answered = line.statuses.count("ok")
        line.until(lambda: line.statuses.count("ok") > answered)
    assert one_decision_each(line.decisions, line.line.gate.parts)
    ca.write_bytes(whole[:300])
    with running(Scripted([Captured(FRAME)]), connect) as line:
        line.finish()
    assert isinstance(line.line.failure, InputError)


@pytest.mark.parametrize("way", ["address", "socket"])
def test_a_part_whose_name_is_no_text_is_invalid_and_its_neighbours_are_answered(own_server, way):
    source = Scripted([Captured(FRAME, part_id=name) for name in ("a.png", "\udce4.png", "b.png")])
    with running(source, getattr(own_server, way), policy="block") as line:
        decisions = sorted(line.finish(), key=lambda each: each.sequence)
    assert [each.status for each in decisions] == ["ok", "invalid", "ok"]
    assert decisions[1].reason.startswith(r"identity.part_id: found '\udce4.png': 'utf-8' codec can't encode")
    assert [turn.up for turn in line.turns if turn.what == "server"] == [True]


def test_a_frame_larger_than_the_memory_is_invalid_and_the_next_one_answered(own_server):
    large = RawFrame(bytes(3_000_000), 1000, 1000, "RGB8")
    source = Scripted([Captured(FRAME), Captured(large), Captured(FRAME)])
    with running(source, lambda: LocalClient(own_server.socket, largest_frame_mb=1), policy="block") as line:
        decisions = sorted(line.finish(), key=lambda each: each.sequence)
    assert [each.status for each in decisions] == ["ok", "invalid", "ok"]
    assert "found a frame of 3000000 bytes, expected at most largest_frame_mb, 1 MiB" in decisions[1].reason
    assert [turn.up for turn in line.turns if turn.what == "server"] == [True]


def test_the_command_says_how_large_a_frame_may_be(own_server, run_module, tmp_path):
    large = tmp_path / "large.bmp"
    Image.new("RGB", (1000, 1000)).save(large)
    statuses = []
    for largest in ("1", "3"):
        done = run_module(
            *("agvas_runtime.camera.cli", "run", large, "--local", own_server.socket, "--deadline-ms", "20000"),
            *("--largest-frame-mb", largest, "--json"),
        )
        assert done.returncode == 0, done.stderr
        statuses.append(json.loads(done.stdout.splitlines()[-1])["statuses"])
    assert statuses == [{"invalid": 1}, {"ok": 1}]


def test_the_newest_part_counts_where_the_camera_is_faster_than_the_answers(address):
    with running(Scripted([Captured(FRAME)] * 200), address, policy="latest") as line:
        decisions = line.finish()
    assert one_decision_each(decisions, 200)
    statuses = Counter(each.status for each in decisions)
    assert set(statuses) == {"ok", "dropped"}
    assert decisions[-1].sequence == 199
    assert decisions[-1].status == "ok"
