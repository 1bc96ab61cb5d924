"""Which cluster `agvas-data instruct --ray` joins, and who is kept out."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from agvas_train.data.instruct import ray_cluster
from tests.train.instruct.ray_runs import start, workers_of
from tests.train.instruct.small_sets import agvas_data, make_small_set
from tools.instruct_proof import check
from tools.instruct_server import Body, Sent, VisionServer, well


def stranger(raylet: psutil.Process, home: Path) -> subprocess.CompletedProcess[str]:
    """Somebody on this machine who has not the token, and tries to join the cluster."""
    [address] = [each.partition("=")[2] for each in raylet.cmdline() if each.startswith("--gcs-address=")]
    script = f"import ray; ray.init(address={address!r})"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(home)  # where Ray keeps a token
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], list[psutil.Process]]]:
    """A cluster of two nodes with a token, as docs/instruct.md starts one: its address, variables and processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | settings
    command = [str(Path(sys.executable).with_name("ray"))]
    subprocess.run([*command, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray"))  # sockets need a short path
        common = ["--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--min-worker-port", "0", "--block"]
        common += ["--max-worker-port", "0"]
        head = ["--head", "--port", address.split(":")[1], "--temp-dir", folder, "--include-dashboard", "false"]
        nodes = []
        for own in (head, ["--address", address]):
            node = stack.enter_context(
                subprocess.Popen([*command, "start", *own, *common], env=environment, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(end, node)
            assert any("--block" in line for line in node.stdout)
            nodes.append(psutil.Process(node.pid))
        yield address, settings, nodes


def end(node: subprocess.Popen[str]) -> None:
    """End a node and all that it started."""
    started = psutil.Process(node.pid).children(recursive=True)
    node.terminate()
    _, left = psutil.wait_procs(started, timeout=20)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait(20)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_workers_of_a_running_cluster_are_reached_by_its_address(tmp_path: Path, cluster):
    address, settings, nodes = cluster
    root, busy = make_small_set(tmp_path / "set", defects=30), set()

    def behave(number: int, body: Body) -> Sent:
        for place, node in enumerate(nodes):
            if any("ray::Worker" in child.name() for child in node.children(recursive=True)):
                busy.add(place)
        return well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url, where=("--ray", address), **settings | {"HOME": str(tmp_path / "nobody")})
        _, err = process.communicate(timeout=120)
        assert (process.returncode, err.count("\n"), server.count) == (2, 1, 0), err
        assert err.startswith(f"error: --ray: cannot join {address!r} (")
        process = start(root, server.url, where=("--ray", address), **settings)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert busy == {0, 1}  # without --ray-workers one a machine
    assert check(root, root.parent / "out") == {"records": 32, "lost": 0, "twice": 0, "confused": 0}


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


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_one_line_and_leaves_no_settings_behind(root: Path, address: str):
    before = dict(os.environ)
    code, _, err = agvas_data(
        *("instruct", root, "--out", root.parent / "out", "--endpoint", "http://127.0.0.1:1/v1", "--model", "eyes"),
        *("--ray", address),
    )
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --ray: found nobody at {address!r} (")
    assert dict(os.environ) == before


def test_an_address_of_ipv6_is_reached():
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 on loopback here ({error.strerror})")
    with listening:
        ray_cluster.reach(f"[::1]:{listening.getsockname()[1]}")
