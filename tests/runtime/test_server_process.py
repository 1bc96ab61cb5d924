"""The life of the server's process: ready, port taken, wrong bundle, signals."""

import json
import signal
import socket
import subprocess
import sys

import pytest

from agvas_runtime.demo.server_process import server_process
from agvas_runtime.server import health

SERVE = "agvas_runtime.cli"


def test_the_ready_line_names_the_port_that_answers(server):
    assert health.status(f"127.0.0.1:{server.port}") == "SERVING"


def test_the_ready_line_is_json_on_stdout_and_nothing_else_is(segmenter):
    command = [sys.executable, "-m", SERVE, "serve", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    event = json.loads(process.stdout.readline())
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert event["event"] == "ready"
    assert event["model"] == segmenter.bundle.manifest.name
    assert event["pid"] == process.pid
    assert (out, err) == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_with_exit_code_0(number):
    with server_process() as running:
        running.process.send_signal(number)
        assert running.process.wait(timeout=30) == 0
        assert health.status(f"127.0.0.1:{running.port}") == "UNAVAILABLE"


def test_a_port_in_use_is_one_line_with_exit_code_1(run_module):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_module(SERVE, "serve", "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} on 127.0.0.1: address already in use\n"


def test_two_servers_never_share_a_port(server, run_module):
    done = run_module(SERVE, "serve", "--port", server.port)
    assert done.returncode == 1
    assert f"port {server.port}" in done.stderr


def test_an_unknown_host_is_one_line_with_exit_code_1(run_module):
    done = run_module(SERVE, "serve", "--host", "no.such.host.invalid", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: port 0 on no.such.host.invalid: ")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_bundle_is_one_line_with_exit_code_2(run_module, tmp_path):
    done = run_module(SERVE, "serve", "--port", "0", "--bundle", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: no manifest.json, so this is not a bundle\n"


def test_a_server_listens_on_the_loopback_interface_only_unless_told_otherwise(server):
    import psutil

    listening = [c.laddr for c in psutil.Process(server.process.pid).net_connections("inet") if c.status == "LISTEN"]
    assert [address.ip for address in listening] in (["127.0.0.1"], ["::ffff:127.0.0.1"])
