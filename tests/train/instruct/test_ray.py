"""`agvas-data instruct --ray`: workers in processes of their own, against the endpoint on loopback."""

import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.instruct.endpoint import EndpointConfig
from agvas_train.data.instruct.ledger import RECORDS
from agvas_train.data.instruct.ray_workers import Job, Worker
from agvas_train.data.instruct.tasks import make_plan
from tests.train.instruct.ray_runs import start, workers_of
from tests.train.instruct.small_sets import agvas_data, lines, make_small_set
from tools.instruct_proof import check
from tools.instruct_server import Body, Sent, VisionServer, well


@pytest.mark.usefixtures("ray")
def test_a_killed_worker_and_a_killed_run_lose_and_double_nothing(tmp_path: Path):
    root, seen, lock = make_small_set(tmp_path / "set", defects=30), [], threading.Lock()
    process, started = None, {}

    def behave(number: int, body: Body) -> Sent:
        with lock:
            if number == 8:
                seen.extend(workers_of(process))
                seen[0].kill()
            if number == 20:
                started.update({each: each.name() for each in psutil.Process(process.pid).children(recursive=True)})
                process.kill()
        return Sent(status=500) if number % 10 == 5 else well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert len(seen) == 2
        own = [each for each, name in started.items() if name in ("raylet", "gcs_server") or "ray::Worker" in name]
        assert len(own) >= 3
        assert psutil.wait_procs(own, timeout=60)[1] == []
        assert 8 <= len(lines(root.parent / "out" / RECORDS)) < 32
        process = start(root, server.url, "--json")
        said, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(said)["remaining"] == 0
    assert check(root, root.parent / "out") == {"records": 32, "lost": 0, "twice": 0, "confused": 0}


def kill_each_time(process: subprocess.Popen[str], spared: int, times: int, over: threading.Event) -> None:
    """Kill every worker but so many of them, whenever one is there, until each has been killed so often."""
    healthy: list[psutil.Process] = []
    killed = 0
    while process.poll() is None and killed < times * (2 - spared):
        workers = workers_of(process)
        if len(healthy) < spared:
            healthy = workers[:spared] if len(workers) == 2 else []
            continue
        for worker in workers:
            if worker not in healthy:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
                    worker.wait(60)
                    killed += 1
    over.set()


@pytest.mark.slow
@pytest.mark.parametrize("spared", [1, 0])
@pytest.mark.usefixtures("ray")
def test_a_worker_that_is_lost_for_good_leaves_its_images_to_the_others(tmp_path: Path, spared: int):
    root, over = make_small_set(tmp_path / "set", defects=30), threading.Event()
    process = None

    def behave(number: int, body: Body) -> Sent:
        if number == 1:
            threading.Thread(target=kill_each_time, args=(process, spared, 4, over), daemon=True).start()
        over.wait(240)  # nobody gets an answer before the last death
        return well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url)
        said, err = process.communicate(timeout=300)
    if spared:
        assert (process.returncode, err.count("\n")) == (0, 1), err
        assert err.startswith("--ray: 1 of 2 workers are left: ActorDiedError: ")
        assert "32 records, 0 set aside, 0 without an answer" in said
        assert check(root, root.parent / "out") == {"records": 32, "lost": 0, "twice": 0, "confused": 0}
    else:
        assert (process.returncode, err.count("\n")) == (1, 3), err
        assert err.splitlines()[-1].startswith("error: --ray: all 2 workers are lost: ActorDiedError: ")


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_worker_that_gives_no_sign_of_life_leaves_its_images_to_the_others(tmp_path: Path):
    root, stopped = make_small_set(tmp_path / "set", defects=30), []
    process = None

    def behave(number: int, body: Body) -> Sent:
        if number == 5:
            stopped.append(workers_of(process)[0])
            stopped[0].suspend()
        return well(number, body)

    with VisionServer(behave) as server:
        soon = "from agvas_train.data.instruct import ray_workers as ray\nray.QUIET_S, ray.LOST_S = 1.0, 3.0"
        process = start(root, server.url, before=soon)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err.count("\n")) == (0, 1), err
    assert err == f"--ray: 1 of 2 workers are left: NoSignOfLife: {socket.gethostname()}, for 3 s\n"
    assert check(root, root.parent / "out") == {"records": 32, "lost": 0, "twice": 0, "confused": 0}
    assert psutil.wait_procs(stopped, timeout=60)[1] == []


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_ctrl_c_and_a_refused_key_end_as_without_ray(tmp_path: Path):
    root = make_small_set(tmp_path / "set", defects=30)
    process = None

    def behave(number: int, body: Body) -> Sent:
        if number == 12:
            process.send_signal(signal.SIGINT)
        return well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url)
        said, err = process.communicate(timeout=120)
    assert (process.returncode, said, err) == (130, "", "")
    assert 8 <= len(lines(root.parent / "out" / RECORDS)) < 32
    with VisionServer(lambda *_: Sent(b'{"error": "no such key"}', 401)) as server:
        process = start(root, server.url)
        said, err = process.communicate(timeout=120)
    assert (process.returncode, said, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {server.url}/chat/completions: found HTTP 401 (no such key); check --endpoint")


def test_a_machine_without_the_data_set_is_named(tmp_path: Path):
    root = make_small_set(tmp_path / "set")
    plan = make_plan(root)
    worker = Worker(Job(root, plan.normals, None, None, 64, 1))
    assert worker.missing().startswith(f"{root}/captions.jsonl: no such file; ")
    assert worker.missing().endswith(f" (on {socket.gethostname()})")
    root.rename(tmp_path / "moved")  # as if it were started again on another machine
    assert worker.missing() == f"{root}: no data set on {socket.gethostname()} (No such file or directory)"
    answer = worker.annotate(plan.tasks[0])
    assert isinstance(answer, InputError)
    assert str(answer) == f"--ray: {worker.missing()}; expected the data set at the same place on every machine"


def test_what_a_worker_notes_comes_back_with_its_answer(tmp_path: Path):
    root = make_small_set(tmp_path / "set")
    (root / "part/test/good/001.png").write_bytes(b"no picture")
    plan = make_plan(root)
    with VisionServer() as server:
        worker = Worker(Job(root, plan.normals, EndpointConfig(server.url, "eyes"), None, 64, 1))
        first, second = (worker.annotate(task) for task in plan.tasks[-2:])
    [note] = first.notes
    assert note.startswith(f"{socket.gethostname()}: not among the normal images of part: {root}/part/test/good/001")
    assert second.notes == ()


def test_without_ray_the_option_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = agvas_data(
        *("instruct", root, "--out", root.parent / "out", "--endpoint", "http://127.0.0.1:1/v1", "--model", "eyes"),
        *("--ray", "local"),
    )
    assert (code, err) == (1, "error: ray is not installed, which this command needs: pip install 'agvas[ray]'\n")


def test_workers_go_with_ray(root: Path):
    code, _, err = agvas_data("instruct", root, "--out", root.parent / "out", "--ray-workers", 2)
    assert (code, err) == (2, "error: --ray-workers goes with --ray\n")
