"""What ends an engine process, and what does not: kills, hangs, broken bundles, the server's own death."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import BundleError, InputError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.server.engine import child
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.process import EngineDied, EngineProcess
from agvas_runtime.server.engine.task import EngineSpec, Task
from tests.runtime.test_engine_process import IMAGES, LONG, SPEC, WAIT_S


@pytest.fixture(scope="module")
def arena():
    made = Arena(64 * 2**20)
    yield made
    made.close()


@pytest.fixture
def start(arena):
    """Starts further ones."""
    made = []

    def begin(spec=SPEC, **options):
        made.append(EngineProcess(spec, arena, **options))
        return made[-1]

    yield begin
    for process in made:
        process.close(0)


@pytest.fixture
def place(arena):
    """Places frames; they are released after the test."""
    blocks = []

    def put(image):
        blocks.append(arena.place(image))
        return blocks[-1]

    yield put
    for block in blocks:
        block.release()


def ended(pid):
    """Something to wait on until a process is gone that need not be ours."""
    return os.pidfd_open(pid)


def wait_for(*pidfds):
    """Wait until each process is gone; whether they are, in time."""
    return all(select.select([pidfd], [], [], WAIT_S)[0] for pidfd in pidfds)


def test_it_has_nothing_open_of_the_servers_but_its_pipe_and_the_memory(start):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        ours = os.readlink(f"/proc/self/fd/{listening.fileno()}")
        process = start(EngineSpec(threads=1, device="7"))
        process.wait_ready(WAIT_S)
        folder = f"/proc/{process.pid}/fd"
        assert ours not in [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    with open(f"/proc/{process.pid}/environ", "rb") as environment:
        assert b"CUDA_VISIBLE_DEVICES=7" in environment.read().split(b"\0")


def test_a_killed_one_says_so_to_everybody_who_waits_and_lets_their_blocks_go(start, arena, place):
    process = start()
    process.wait_ready(WAIT_S)
    os.kill(process.pid, signal.SIGSTOP)  # so that nothing is answered before
    free = arena.free_bytes
    frame, streamed = arena.place(IMAGES[0]), arena.place(IMAGES[1])

    def kill():
        os.kill(process.pid, signal.SIGKILL)
        return False

    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(lambda: next(process.stream(streamed, LONG)))
        with pytest.raises(EngineDied, match=r"^killed by signal 9$"):
            process.segment([frame], [Task()], kill)
        with pytest.raises(EngineDied, match=r"^killed by signal 9$"):
            stream.result(WAIT_S)
    frame.release()
    streamed.release()
    assert arena.free_bytes == free
    assert (process.alive, process.death, process.memory_bytes()) == (False, "killed by signal 9", 0)
    with pytest.raises(EngineDied, match=r"^killed by signal 9$"):
        process.segment([place(IMAGES[0])], [Task()])
    with pytest.raises(EngineDied, match=r"^killed by signal 9$"):
        process.wait_ready()


def test_one_that_gives_no_answer_is_killed_but_not_while_it_loads(start, place):
    process = start(hang_s=0.3)
    gone = ended(process.pid)
    process.wait_ready(WAIT_S)  # which takes longer
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(EngineDied, match=r"^no answer for 0\.3 s$"):
        process.segment([place(IMAGES[0])], [Task()])
    assert wait_for(gone)


def test_a_broken_bundle_is_refused_in_the_segmenters_words(start, tmp_path):
    folder = shutil.copytree(default_bundle_path(), tmp_path / "bundle")
    with (folder / "templates.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleError) as wanted:
        Segmenter.open(folder)
    process = start(EngineSpec(bundle=folder))
    with pytest.raises(BundleError) as caught:
        process.wait_ready(WAIT_S)
    assert str(caught.value) == str(wanted.value)


def test_a_request_to_warm_up_for_that_is_not_usable_is_refused(start):
    process = start(EngineSpec(threads=1, warm=(Request(Mode.GENERAL),)))
    with pytest.raises(InputError, match="mode general needs class_name"):
        process.wait_ready(WAIT_S)


def test_one_that_does_not_start_says_its_last_line_which_is_logged(start, monkeypatch, caplog):
    monkeypatch.setattr(child, "WORKER", "agvas_runtime.no_such_module")
    caplog.set_level("INFO", "agvas.engine")
    process = start()
    line = f"{sys.executable}: No module named agvas_runtime.no_such_module"
    with pytest.raises(EngineDied) as caught:
        process.wait_ready(WAIT_S)
    assert caught.value.reason == f"exit code 1: {line}"
    assert f"engine process {process.pid}: {line}" in caplog.messages


def test_one_starts_where_the_servers_folder_is_gone(start, tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    start().wait_ready(WAIT_S)


def test_one_that_is_not_ready_in_time_goes_on(start):
    process = start()
    with pytest.raises(TimeoutError):
        process.wait_ready(0)
    assert process.wait_ready(WAIT_S).pid == process.pid
    process.close(WAIT_S)
    assert process.death == "it was closed"


def test_one_that_is_closed_before_it_is_ready_ends(start):
    process = start()
    gone = ended(process.pid)
    process.close(WAIT_S)
    assert wait_for(gone)
    with pytest.raises(EngineDied, match=r"^it was closed$"):
        process.wait_ready()


def test_a_stopped_one_ends_with_the_server():
    """Not even what cannot run is left over: the kernel sees to it."""
    script = (
        "import sys\n"
        "from agvas_runtime.server.engine.process import Arena, EngineProcess, EngineSpec\n"
        "process = EngineProcess(EngineSpec(threads=1), Arena(2**20))\n"
        "print(process.wait_ready().pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        pid = int(server.stdout.readline())
        gone = ended(pid)
        os.kill(pid, signal.SIGSTOP)
        server.kill()
        assert wait_for(gone)


def test_one_whose_pipe_ends_ends():
    ours, theirs = socket.socketpair()
    arena = Arena(2**20)
    with theirs:
        command = [sys.executable, "-m", child.WORKER, str(theirs.fileno()), str(arena.fd)]
        worker = subprocess.Popen(command, pass_fds=(theirs.fileno(), arena.fd))
    with closing(child.Link(ours.detach())) as link:
        link.send(child.Hello(SPEC, arena.size))
        assert link.recv().facts.pid == worker.pid
    assert worker.wait(WAIT_S) == 0
    arena.close()


def test_a_start_without_room_for_its_threads_fails_at_once_and_leaves_no_process(arena, monkeypatch):
    started = []

    class Talk(threading.Thread):
        def start(self):
            if self.name == "engine-log":
                raise RuntimeError("can't start new thread")
            super().start()

    class Started(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(child.threading, "Thread", Talk)
    monkeypatch.setattr(child.subprocess, "Popen", Started)
    with pytest.raises(EngineDied, match="no process can be started: can't start new thread"):
        EngineProcess(SPEC, arena)
    assert started[0].poll() is not None
