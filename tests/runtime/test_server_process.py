"""The life of the server's process: ready, port taken, wrong bundle, signals."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agvas_runtime.bench.load.connection import Connection
from agvas_runtime.bundle import MANIFEST
from agvas_runtime.demo.server_process import ServerProcess, server_process
from agvas_runtime.errors import EngineError
from agvas_runtime.hashing import sha256_file
from agvas_runtime.server import channel, checks, health
from agvas_runtime.server.channel import PING_OPTIONS
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.port import why_not
from agvas_runtime.server.serve import InspectionServer

SERVE = "agvas_runtime.cli"
WAIT_S = 60.0


def engine_of(server: ServerProcess) -> psutil.Process:
    """The only process that the server has started."""
    (engine,) = psutil.Process(server.process.pid).children(recursive=True)
    return engine


def test_the_ready_line_names_the_port_that_answers(server):
    assert health.status(f"127.0.0.1:{server.port}") == "SERVING"


def test_the_ready_line_is_json_on_stdout_and_nothing_else_is_until_sigterm_ends_the_server(segmenter):
    command = [sys.executable, "-m", SERVE, "serve", "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    event = json.loads(process.stdout.readline())
    (engine,) = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    out, err = process.communicate(timeout=30)
    port = event.pop("port")
    assert event == {
        "event": "ready",
        "host": "127.0.0.1",
        "metrics_port": None,
        "pid": process.pid,
        "model": segmenter.bundle.manifest.name,
        "bundle_sha256": sha256_file(segmenter.bundle.folder / MANIFEST),
        "engines": [{"device": "", "pid": engine.pid}],
    }
    assert (out, err, process.returncode) == ("", "", 0)
    assert health.status(f"127.0.0.1:{port}") == "UNAVAILABLE"
    assert not engine.is_running()


def test_a_server_whose_stdout_is_a_full_disk_serves_and_says_so():
    command = [sys.executable, "-m", SERVE, "serve", "--port", "0", "--json"]
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, text=True) as process,
    ):
        told = process.stderr.readline()
        process.terminate()
        _, rest = process.communicate(timeout=30)
    assert told.endswith("agvas.server: stdout: the line of readiness cannot be written: no space left on device\n")
    assert (rest, process.returncode) == ("", 0)


def test_a_server_that_stands_still_is_missed_and_its_calls_end(monkeypatch):
    quick = {"grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}
    monkeypatch.setattr(channel, "PING_OPTIONS", tuple({**dict(PING_OPTIONS), **quick}.items()))
    with server_process() as running, channel.open_channel(f"127.0.0.1:{running.port}", shared=False) as connection:
        told = health_pb2_grpc.HealthStub(connection).Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        assert next(told).status == health_pb2.HealthCheckResponse.SERVING
        running.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(grpc.RpcError) as lost:
                next(told)
        finally:
            running.process.send_signal(signal.SIGCONT)
    assert lost.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_server_bears_the_pings_of_its_clients():
    least_ms = dict(channel.LIMIT_OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"]
    assert dict(channel.client_options())["grpc.keepalive_time_ms"] > least_ms


def test_a_server_of_another_maker_is_loaded_without_pings(monkeypatch):
    """gRPC's own settings hang up on a client that asks more than every five minutes."""
    opened = []
    monkeypatch.setattr(grpc, "insecure_channel", lambda address, options: opened.append(dict(options)))
    connection = Connection("127.0.0.1:1")
    for open_one in (connection.shared, connection.own, lambda: channel.open_channel("127.0.0.1:1")):
        open_one()
    assert ["grpc.keepalive_time_ms" in options for options in opened] == [False, False, True]


def test_sigint_ends_the_server_whichever_of_its_threads_the_system_interrupts():
    """As a rule that is the main thread, which runs Python's handlers; not always."""
    with server_process() as running:
        engine = engine_of(running)
        _, thread, *_ = sorted(int(name) for name in os.listdir(f"/proc/{running.process.pid}/task"))
        assert thread != running.process.pid
        os.kill(thread, signal.SIGINT)
        assert running.process.wait(timeout=30) == 0
        assert health.status(f"127.0.0.1:{running.port}") == "UNAVAILABLE"
        assert not engine.is_running()


def test_two_servers_never_share_a_port_and_one_in_use_is_one_line_with_exit_code_1(server, run_module):
    done = run_module(SERVE, "serve", "--port", server.port)
    assert done.returncode == 1
    assert done.stderr == f"error: port {server.port} on 127.0.0.1: address already in use\n"


def test_a_port_that_another_program_has_is_refused_before_an_engine_is_started():
    before = psutil.Process().children()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"^port {port} on 127.0.0.1: address already in use$"):
            InspectionServer(ServerConfig(port=port))
    assert psutil.Process().children() == before


def test_every_address_that_a_host_s_name_stands_for_has_to_be_free(monkeypatch):
    """As localhost is 127.0.0.1 and ::1; here two that every machine has, and one that no machine has."""

    def of(host, port, **_):
        names = {"both": ("127.0.0.1", "127.0.0.2"), "some": ("192.0.2.1", "127.0.0.1"), "none": ("192.0.2.1",)}
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", of)
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        assert why_not("both", port) == "address already in use"
        assert why_not("some", port) is None
        assert checks._port("port", "both", port).state == "problem"
    assert why_not("both", port) is None
    assert why_not("none", port) == "cannot assign requested address"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_every_address_is_free_where_both_protocols_are(host):
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            taken.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        taken.listen(1)
        assert why_not(host, taken.getsockname()[1]) == "address already in use"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert why_not(host, taken.getsockname()[1]) == "address already in use"
    assert why_not(host, 0) is None


def test_an_unknown_host_is_one_line_with_exit_code_1(run_module):
    done = run_module(SERVE, "serve", "--host", "no.such.host.invalid", "--port", "0", "--insecure")
    assert done.returncode == 1
    assert done.stderr.startswith("error: port 0 on no.such.host.invalid: ")
    assert done.stderr.count("\n") == 1


def test_a_host_that_other_machines_reach_is_refused_with_exit_code_2_unless_that_is_asked_for(run_module):
    done = run_module(SERVE, "serve", "--host", "0.0.0.0", "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --host: found 0.0.0.0, which other machines reach, without encryption (")
    assert done.stderr.endswith("listen on 127.0.0.1, or say --insecure\n")
    assert done.stderr.count("\n") == 1


def test_a_folder_that_is_no_bundle_is_one_line_with_exit_code_2(run_module, tmp_path):
    done = run_module(SERVE, "serve", "--port", "0", "--bundle", tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: no manifest.json, so this is not a bundle\n"


def test_a_server_listens_on_the_loopback_interface_only_unless_told_otherwise(server):
    listening = [c.laddr for c in psutil.Process(server.process.pid).net_connections("inet") if c.status == "LISTEN"]
    assert [address.ip for address in listening] in (["127.0.0.1"], ["::ffff:127.0.0.1"])
    assert engine_of(server).net_connections("inet") == []


def test_the_engine_runs_in_a_process_of_its_own(server):
    loaded = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (server.process.pid, engine_of(server).pid)}
    assert ["onnxruntime" in maps for maps in loaded.values()] == [False, True]
