"""`agvas-data instruct --ray`: two workers in processes of their own, against the endpoint on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from agvas_train.data.instruct.ledger import RECORDS
from agvas_train.data.instruct.ray_workers import Job, Worker
from tests.train.instruct.small_sets import agvas_data, lines, make_small_set
from tools.instruct_proof import check
from tools.instruct_server import Body, Sent, VisionServer, well

RAY = ("--ray", "local", "--ray-workers", "2", "--concurrency", "2")


@pytest.fixture
def ray() -> None:
    pytest.importorskip("ray", reason="ray is not installed (agvas[ray])")


def start(root: Path, url: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agvas_train.data.cli", "instruct", str(root), "--out", str(root.parent / "out")]
    command += ["--endpoint", url, "--model", "eyes", "--backoff", "0", *RAY, *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "ray::Worker" in child.name()]


def stranger(raylet: psutil.Process, home: Path) -> subprocess.CompletedProcess[str]:
    """Somebody on this machine who has not the token, and tries to join the cluster."""
    [address] = [each.partition("=")[2] for each in raylet.cmdline() if each.startswith("--gcs-address=")]
    script = f"import ray; ray.init(address={address!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(home)  # where Ray keeps a token
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.usefixtures("ray")
def test_a_killed_worker_and_a_killed_run_lose_and_double_nothing(tmp_path: Path):
    root, seen, lock = make_small_set(tmp_path / "set", defects=30), [], threading.Lock()
    process = None

    def behave(number: int, body: Body) -> Sent:
        with lock:
            if number == 8:
                seen.extend(workers_of(process))
                seen[0].kill()
            if number == 20:
                process.kill()
        return Sent(status=500) if number % 10 == 5 else well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url)
        process.communicate(timeout=120)
        assert len(seen) == 2
        assert 8 <= len(lines(root.parent / "out" / RECORDS)) < 32
        process = start(root, server.url, "--json")
        said, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(said)["remaining"] == 0
    assert check(root, root.parent / "out") == {"records": 32, "lost": 0, "twice": 0, "confused": 0}


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


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_workers_of_this_machine_alone_take_nothing_from_strangers(tmp_path: Path):
    root, tried = make_small_set(tmp_path / "set"), []
    process = None

    def behave(number: int, body: Body) -> Sent:
        if number == 1:
            tried.append(stranger(workers_of(process)[0].parent(), tmp_path))
        return well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url)
        process.communicate(timeout=240)
    assert process.returncode == 0
    assert tried[0].returncode != 0
    assert "token" in tried[0].stderr


def test_a_machine_without_the_data_set_is_named(tmp_path: Path):
    worker = Worker(Job(tmp_path / "nowhere", {}, None, None, 64, 1))
    assert worker.missing() == f"{tmp_path}/nowhere: no such data set on {socket.gethostname()}"


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_one_line(root: Path, address: str):
    code, _, err = agvas_data(
        *("instruct", root, "--out", root.parent / "out", "--endpoint", "http://127.0.0.1:1/v1", "--model", "eyes"),
        *("--ray", address),
    )
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --ray: found nobody at {address!r} (")


def test_without_ray_the_option_says_what_to_install(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = agvas_data(
        *("instruct", root, "--out", root.parent / "out", "--endpoint", "http://127.0.0.1:1/v1", "--model", "eyes"),
        *("--ray", "local"),
    )
    assert (code, err) == (1, "error: ray is not installed, which --ray needs: pip install 'agvas[ray]'\n")


def test_workers_go_with_ray(root: Path):
    code, _, err = agvas_data("instruct", root, "--out", root.parent / "out", "--ray-workers", 2)
    assert (code, err) == (2, "error: --ray-workers goes with --ray\n")
