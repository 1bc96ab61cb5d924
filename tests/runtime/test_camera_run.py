"""`agvas-camera run`, as users run it: outputs, pictures, commands, exit codes."""

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import weakref
from pathlib import Path
from threading import Event

import numpy as np
import psutil
import pytest
from PIL import Image

from agvas_runtime.camera import run as camera_run
from agvas_runtime.camera.gate import Decision
from agvas_runtime.camera.outputs import JsonLines, OnReject, Worker, facts
from agvas_runtime.camera.run import Office, Outputs
from agvas_runtime.camera.source import Captured
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_image
from agvas_runtime.server.signals import heard
from agvas_runtime.verdict import Verdict
from tests.runtime.camera_line import port_free
from tests.runtime.live_server import IMAGES, NORMAL, until

CAMERA = "agvas_runtime.camera.cli"


@pytest.fixture
def run(server, run_module):
    """Runs `agvas-camera run` against the server."""

    def call(*arguments: object, address: str = f"127.0.0.1:{server.port}") -> subprocess.CompletedProcess[str]:
        return run_module(CAMERA, "run", *arguments, "--server", address)

    return call


@pytest.fixture
def folder(photo, tmp_path):
    """Six files: four with a defect, a normal one, a broken one."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in "abcd":
        shutil.copy(photo, folder / f"{name}.jpg")
    Image.fromarray(IMAGES[NORMAL]).save(folder / "e.png")
    (folder / "f.jpg").write_bytes(photo.read_bytes()[:300])
    return folder


def executable(path: Path, script: str) -> Path:
    """A program of the shell's."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def events(text: str, kind: str = "decision") -> list[dict]:
    return [event for event in map(json.loads, text.splitlines()) if event["event"] == kind]


def test_every_part_is_a_json_line_and_rejects_are_pictures_and_commands(run, folder, tmp_path):
    log = tmp_path / "ejected"
    told = "$1 $AGVAS_CAMERA $AGVAS_PART $AGVAS_GATE $AGVAS_STATUS"
    script = executable(tmp_path / "eject", f'echo "{told}" >> {log}')
    rejects, lines = tmp_path / "rejects", tmp_path / "lines.jsonl"
    rejects.mkdir()
    (rejects / "notes.txt").write_text("stays")
    done = run(
        *(f"left={folder}", "--policy", "block", "--fps", "0", "--on-no-answer", "stop", "--json"),
        *("--jsonl", lines, "--rejects", rejects, "--keep", "3", "--on-reject", f"{script} --line;rm"),
    )
    assert done.returncode == 0, done.stderr
    found = events(done.stdout)
    assert [event["part"] for event in found] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.png", "f.jpg"]
    assert [event["sequence"] for event in found] == list(range(6))
    assert {event["camera"] for event in found} == {"left"}
    assert [event["gate"] for event in found] == ["reject"] * 4 + ["pass", "stop"]
    assert found[0]["status"] == "ok"
    assert found[0]["defect_area_px"] >= found[0]["regions"][0]["area_px"] > 0
    assert found[5]["status"] == "invalid"
    assert "frame.encoded: truncated" in found[5]["reason"]
    assert lines.read_text() == done.stdout
    (summary,) = events(done.stdout, "summary")
    assert summary["gates"] == {"pass": 1, "reject": 4, "stop": 1}
    pictures = sorted(path.name for path in rejects.iterdir() if path.suffix == ".png")
    assert [name.split("_")[1:3] for name in pictures] == [["left", f"0000000{number}"] for number in (1, 2, 3)]
    assert read_image(rejects / pictures[0]).shape[1] == read_image(folder / "a.jpg").shape[1]
    assert (rejects / "notes.txt").exists()
    expected = [f"--line;rm left {name}.jpg {'stop' if name == 'f' else 'reject'}" for name in "abcdf"]
    assert [line.rpartition(" ")[0] for line in log.read_text().splitlines()] == expected


def test_without_json_the_summary_is_a_line_a_camera_and_notes_go_to_stderr(run, folder):
    done = run(f"left={folder}", f"right={folder}/e.png", "--policy", "block", "--fps", "0", "--deadline-ms", "20000")
    assert done.returncode == 0
    left, right = done.stdout.splitlines()
    assert left.startswith("left: 6 parts: 1 pass, 5 reject; without a result: 1 invalid; decided after p50 ")
    assert right.startswith("right: 1 parts: 1 pass; decided after p50 ")
    assert sorted(done.stderr.splitlines()) == [
        f"{id_}: {what} there" for id_ in ("left", "right") for what in ("camera", "server")
    ]


def test_a_terminal_shows_a_table_with_a_row_a_camera(server, folder):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", CAMERA, "run", f"left={folder}", "--policy", "block"]
    command += ["--server", f"127.0.0.1:{server.port}"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # the terminal's other side is closed
        pass
    os.close(ours)
    process.communicate()
    assert process.returncode == 0
    text = shown.decode()
    for word in ("camera", "no answer", "late", "p99 ms", "left", "running", "left: 6 parts: 1 pass, 5 reject"):
        assert word in text, word


def test_no_server_is_no_failure_and_every_part_goes_by_the_rule(run, folder):
    done = run(folder, "--fps", "0", "--on-no-answer", "pass", "--json", address=f"127.0.0.1:{port_free()}")
    assert done.returncode == 0
    assert [(event["gate"], event["status"]) for event in events(done.stdout)] == [("pass", "unreachable")] * 6
    assert "parts: server lost, trying again: 127.0.0.1" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_endless_line_with_its_summary_and_exit_code_0(server, folder, number):
    command = [sys.executable, "-m", CAMERA, "run", folder, "--loop", "--fps", "20", "--json"]
    command += ["--server", f"127.0.0.1:{server.port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = [process.stdout.readline() for _ in range(6)]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    text = "".join(first) + out
    (summary,) = events(text, "summary")
    assert sorted(event["sequence"] for event in events(text)) == list(range(summary["parts"]))


def test_a_signal_ends_the_command_although_the_reader_of_its_lines_hangs(folder):
    ours, theirs = os.pipe()
    os.write(theirs, bytes(fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ)))  # no room for anything more
    command = [sys.executable, "-m", CAMERA, "run", folder, "--loop", "--fps", "50", "--json"]
    command += ["--server", f"127.0.0.1:{port_free()}"]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, text=True, env=usual)
    try:
        assert process.stderr.readline()  # its JSON line is next
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert re.search(r"^[1-9]\d* events were left out", err, re.MULTILINE), err


def test_behind_the_block_signals_do_what_they_did_before():
    numbers, heard_of = (signal.SIGINT, signal.SIGTERM), Event()
    before = [signal.getsignal(number) for number in numbers]
    with heard(heard_of.set):
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard_of.wait(60)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_signal_for_all_of_a_terminal_leaves_the_command_that_runs_its_time(folder, tmp_path):
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    for pipe in (begun, go_on):
        os.mkfifo(pipe)
    what = f"echo begun > {begun}\nread line < {go_on}\necho $line > {tmp_path}/done"
    script = executable(tmp_path / "eject", what)
    command = [sys.executable, "-m", CAMERA, "run", folder / "a.jpg", "--loop", "--fps", "0.02", "--json"]
    command += ["--on-reject", script, "--server", f"127.0.0.1:{port_free()}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    more = os.open(go_on, os.O_RDWR)  # it can be written to although nobody reads
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        assert begun.read_text() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        assert any(events(line, "summary") for line in process.stdout)
        os.write(more, b"done\n")
        _, err = process.communicate(timeout=60)
    os.close(more)
    assert process.returncode == 0
    assert "on-reject" not in err
    assert "commands" not in err
    assert (tmp_path / "done").read_text() == "done\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["absent"], "error: absent: no such camera, file or folder; expected gige:ID, "),
        (["{folder}", "{folder}"], "error: found the camera parts twice, expected ids of their own: parts-2=SOURCE"),
        (["{folder}", "--set", "Width"], "error: --set: found Width, expected NAME=VALUE"),
        (["{folder}", "--on-reject", "'"], 'error: --on-reject: found "\'", expected a command: '),
        (["{folder}", "--jsonl", "{folder}"], "error: {folder}: cannot write: Is a directory"),
        (["{folder}", "--rejects", "{folder}/a.jpg"], "error: {folder}/a.jpg: cannot make this folder: "),
        (["{folder}", "--recipe", "absent"], "error: recipe_name: found 'absent'"),
        (["{folder}", "--on-no-answer", "eject"], "error: Invalid value for '--on-no-answer'"),
        (["{folder}", "--local", "socket"], "error: can't use --server beside --local, whose server is on this"),
        (["{folder}", "--largest-frame-mb", "3"], "error: --largest-frame-mb: found 3 without --local, expected both"),
        (["{folder}", "--keep", "3"], "error: --keep: found 3 without --rejects, expected both"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_exit_code_2(run, folder, arguments, text):
    done = run(*(each.format(folder=folder) for each in arguments), "--json")
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    assert error.startswith(text.format(folder=folder))
    assert events(done.stdout) == events(done.stdout, "server") == []


def decision(**changes) -> Decision:
    captured = Captured(None)
    fields = {
        "camera_id": "left",
        "sequence": 3,
        "part_id": "p",
        "trigger_id": "17",
        "capture_time": captured.capture_time,
        "status": "unreachable",
        "verdict": Verdict.NO_ANSWER,
        "gate": "reject",
        "reason": "gone",
        "latency_ms": 1.25,
    }
    return Decision(**{**fields, **changes})


def test_the_facts_of_a_command_are_single_lines_whatever_the_texts_hold():
    found = facts(decision(reason="a\0b\nc\x1b[31m", part_id="x" * 3))
    assert found["AGVAS_REASON"] == "a b c [31m"
    assert all(value.isprintable() for value in found.values())


def test_a_command_that_fails_or_is_gone_does_not_stop_the_next_one(tmp_path, capsys):
    worker = Worker("--on-reject", OnReject("/bin/false"), 8)
    for _ in range(3):
        worker.offer(decision())
    worker.close()
    assert (worker.failed, worker.skipped) == (3, 0)
    assert capsys.readouterr().err == "--on-reject: /bin/false ended with exit code 1; further ones are counted only\n"
    script = executable(tmp_path / "eject", "exit 0")
    absent = Worker("--on-reject", OnReject(str(script)), 8)
    script.unlink()
    absent.offer(decision())
    absent.close()
    assert absent.failed == 1


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (" ", "nothing, expected a command"),
        ("/no/such/command --line 4", "/no/such/command, expected a program that is there and can be run"),
        ("{folder}/a.jpg", "{folder}/a.jpg, expected a program"),
    ],
)
def test_a_command_that_is_none_is_refused_before_there_is_any_part(folder, command, found):
    with pytest.raises(InputError) as caught:
        OnReject(command.format(folder=folder))
    assert str(caught.value).startswith(f"--on-reject: found {found.format(folder=folder)}")


def test_a_reject_without_a_frame_or_mask_is_a_picture_that_was_left_out(tmp_path, capsys):
    office = Office(Outputs(rejects=tmp_path / "rejects"))
    for sequence in range(2):
        office.decided(decision(verdict=Verdict.REJECT, sequence=sequence))
    assert office.close() == {"pictures": 2}
    told = "--rejects: left 0: no picture, since it has no frame: too many parts waited for their answers"
    assert capsys.readouterr().err == f"{told}; further ones are counted only\n"


def busy_worker() -> tuple[Worker[int], Event, list[int]]:
    """One with room for two items, at work on item 0 until it may go on; and what it has done."""
    begun, go_on, done = Event(), Event(), list[int]()

    def slow(item: int) -> None:
        begun.set()
        go_on.wait()
        done.append(item)

    worker = Worker("slow", slow, 2)
    worker.offer(0)
    begun.wait()
    return worker, go_on, done


def test_what_finds_no_room_is_skipped_and_counted_at_once():
    worker, go_on, done = busy_worker()
    for item in range(1, 6):
        worker.offer(item)  # comes back although the first one still runs
    assert worker.skipped == 3
    go_on.set()
    worker.close()
    assert done == [0, 1, 2]


def test_what_is_not_done_at_the_end_is_counted_and_left():
    worker, go_on, done = busy_worker()
    for item in (1, 2, 3):
        worker.offer(item)
    assert worker.close(0) == 4  # one runs, two wait, one found no room
    go_on.set()
    assert worker.close() == 1  # the one that found no room
    assert done == [0]


def test_a_command_that_still_runs_at_the_end_is_ended_with_what_it_started_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(camera_run, "COMMAND_S", 0.1)
    pipe = tmp_path / "pid"
    os.mkfifo(pipe)
    script = executable(tmp_path / "eject", f"sleep 1000 &\necho $! > {pipe}\nwait")
    office = Office(Outputs(on_reject=str(script)))
    for _ in range(3):
        office.decided(decision())
    child = psutil.Process(int(pipe.read_text()))
    assert office.close() == {"commands": 3}
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_reader_that_is_gone_costs_the_file_nothing(tmp_path, monkeypatch, capsys):
    ours, theirs = os.pipe()
    with open(theirs, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        office = Office(Outputs(as_json=True, jsonl=tmp_path / "lines"))
        os.close(ours)
        for sequence in range(3):
            office.decided(decision(sequence=sequence))
        assert office.close() == {"events": 3}
        assert [event["sequence"] for event in events((tmp_path / "lines").read_text())] == [0, 1, 2]
    assert capsys.readouterr().err == "events: [Errno 32] Broken pipe; further ones are counted only\n"


def test_a_reader_that_hangs_holds_up_neither_the_file_nor_any_picture(tmp_path, monkeypatch):
    ours, theirs = os.pipe()
    monkeypatch.setattr(camera_run, "END_S", 0.2)
    with open(theirs, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        office = Office(Outputs(as_json=True, jsonl=tmp_path / "lines"))
        images = [np.zeros((8, 8), np.uint8) for _ in range(1000)]
        gone = [weakref.ref(image) for image in images]
        for sequence in range(1000):  # more lines than a pipe holds
            office.decided(decision(sequence=sequence, image=images.pop()))
        until(lambda: len(events((tmp_path / "lines").read_text())) == 1000)
        assert not any(image() is not None for image in gone)
        assert 0 < office.close()["events"] < 1000
        os.close(ours)


def test_a_line_behind_one_that_was_torn_begins_anew(tmp_path):
    path = tmp_path / "lines"
    lines = JsonLines(path)
    lines("a")
    size, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
        with pytest.raises(OSError, match="File too large"):
            lines("bcd")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        signal.signal(signal.SIGXFSZ, handler)
    lines("\udce4")
    assert path.read_bytes() == b"a\nbc\n\\udce4\n"
