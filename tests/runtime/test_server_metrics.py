"""What the server measures of itself, and the HTTP port where it is read."""

import re
import socket
import struct
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agvas_runtime.errors import EngineError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import gpu_memory as gpu
from agvas_runtime.server import metrics_http
from agvas_runtime.server.metrics import MOST_NAMES, Live, Metrics
from agvas_runtime.server.metrics_http import MOST_CONNECTIONS, MOST_HEAD_BYTES, MOST_OF_ADDRESS, MetricsServer
from tests.runtime.live_server import until

Key = tuple[tuple[str, str], ...]


def values(metrics: Metrics, name: str) -> dict[Key, float]:
    """Samples of that name by their labels, read as Prometheus reads them."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def reply(
    camera: str = "cam-1", status: int = pb.FRAME_STATUS_OK, verdict: int = pb.VERDICT_PASS
) -> pb.SegmentResponse:
    return pb.SegmentResponse(identity=pb.FrameIdentity(camera_id=camera), status=status, verdict=verdict)


@pytest.fixture
def listening():
    """Starts ports that are closed at the end; answers (port, what the readiness says)."""
    with ExitStack() as stack:

        def start(reason: str = "", render=lambda: b"agvas_x 1\n", host: str = "127.0.0.1") -> MetricsServer:
            server = MetricsServer(host, 0, render, lambda: reason)
            stack.callback(server.close)
            return server

        yield start


def get(server: MetricsServer, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{host}:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def connect(server: MetricsServer, address: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30, source_address=(address, 0))


def test_answers_are_counted_by_camera_status_and_verdict():
    metrics = Metrics()
    metrics.frame(reply())
    metrics.frame(reply(verdict=pb.VERDICT_REJECT))
    metrics.frame(reply("cam-2", pb.FRAME_STATUS_DROPPED, pb.VERDICT_NO_ANSWER))
    assert values(metrics, "agvas_frames_total") == {
        (("camera", "cam-1"), ("status", "OK")): 2,
        (("camera", "cam-2"), ("status", "DROPPED")): 1,
    }
    assert values(metrics, "agvas_verdicts_total") == {
        (("camera", "cam-1"), ("verdict", "PASS")): 1,
        (("camera", "cam-1"), ("verdict", "REJECT")): 1,
        (("camera", "cam-2"), ("verdict", "NO_ANSWER")): 1,
    }


def test_times_of_stages_and_of_the_whole_are_in_seconds_and_apart():
    metrics, answer = Metrics(), reply()
    for stage, ms in (("decode", 1.5), ("queue", 2000.0), ("total", 7.0), ("server", 9.0)):
        answer.timings.add(stage=stage, ms=ms)
    metrics.frame(answer)
    assert values(metrics, "agvas_stage_seconds_sum") == {(("stage", "decode"),): 0.0015, (("stage", "queue"),): 2.0}
    assert values(metrics, "agvas_frame_seconds_sum") == {(): pytest.approx(0.009)}
    buckets = values(metrics, "agvas_stage_seconds_bucket")
    edges = [float(dict(key)["le"]) for key in buckets if ("stage", "queue") in key]
    assert (min(edges), sorted(edges)[-2]) == (0.0005, 10.0)


def test_scores_are_counted_where_there_is_a_result():
    metrics, answer = Metrics(), reply()
    answer.scores.anomaly = 0.75
    metrics.frame(answer)
    metrics.frame(reply(status=pb.FRAME_STATUS_EXPIRED))
    assert values(metrics, "agvas_anomaly_score_count") == {(("camera", "cam-1"),): 1}
    assert values(metrics, "agvas_anomaly_score_sum") == {(("camera", "cam-1"),): 0.75}


def test_calls_batches_and_swaps_are_counted():
    metrics = Metrics()
    metrics.call("/agvas.v1.Inspection/Segment", "INVALID_ARGUMENT")
    metrics.batch(3)
    metrics.swap("refused")
    key = (("code", "INVALID_ARGUMENT"), ("method", "/agvas.v1.Inspection/Segment"))
    assert values(metrics, "agvas_calls_total") == {key: 1}
    assert values(metrics, "agvas_batch_size_sum") == {(): 3}
    assert values(metrics, "agvas_swaps_total") == {(("outcome", "refused"),): 1}


def test_names_of_cameras_are_bounded_cut_and_harmless():
    metrics = Metrics()
    odd = ['a"b\\c\n\x1b[31m\x00d', "x" * 1000, ""]
    for name in odd:
        metrics.frame(reply(name))
    for number in range(200):
        metrics.frame(reply(f"cam-{number}"))
        metrics.call(f"/nobody/{number}", "UNIMPLEMENTED")
    cameras = {dict(key)["camera"]: value for key, value in values(metrics, "agvas_frames_total").items()}
    assert len(cameras) == MOST_NAMES + 1
    assert cameras["other"] == 200 - (MOST_NAMES - len(odd))
    assert {'a"b\\c [31m d', "x" * 64, "unnamed"} < set(cameras)
    assert len(values(metrics, "agvas_calls_total")) == MOST_NAMES + 1


def test_an_unknown_status_is_counted_by_its_number():
    metrics = Metrics()
    metrics.frame(reply(status=99))
    assert values(metrics, "agvas_frames_total") == {(("camera", "cam-1"), ("status", "99")): 1}


def engine(device: str, ready: bool, restarts: int, memory_bytes: int) -> SimpleNamespace:
    return SimpleNamespace(device=device, ready=ready, restarts=restarts, memory_bytes=memory_bytes)


def test_what_is_now_is_asked_at_every_scrape():
    waiting = 1
    metrics = Metrics(Live(waiting=lambda: waiting, streams=lambda: 2, recipes_broken=lambda: 3))
    assert values(metrics, "agvas_queue_depth") == {(): 1}
    waiting = 5
    assert values(metrics, "agvas_queue_depth") == {(): 5}
    assert values(metrics, "agvas_streams_open") == {(): 2}
    assert values(metrics, "agvas_recipes_broken") == {(): 3}
    assert values(metrics, "process_resident_memory_bytes")[()] > 1e6


def test_the_bundle_that_serves_is_named_by_its_hash():
    named = Metrics(Live(bundle=lambda: ("a\nb", "0" * 64)))
    assert values(named, "agvas_bundle_info") == {(("name", "a b"), ("sha256", "0" * 64)): 1}
    assert values(Metrics(Live()), "agvas_bundle_info") == {}


def test_engines_of_one_device_are_one_series():
    engines = [engine("", True, 1, 10), engine("0", True, 2, 20), engine("0", False, 3, 30)]
    metrics = Metrics(Live(engines=lambda: engines))
    assert values(metrics, "agvas_engine_ready") == {(("device", "default"),): 1, (("device", "0"),): 1}
    assert values(metrics, "agvas_engine_restarts_total") == {(("device", "default"),): 1, (("device", "0"),): 5}
    assert values(metrics, "agvas_engine_memory_bytes") == {(("device", "default"),): 10, (("device", "0"),): 50}


def test_what_cannot_be_measured_is_left_out_and_the_rest_stays():
    def broken():
        raise RuntimeError("gone")

    metrics = Metrics(Live(waiting=broken, engines=broken, streams=lambda: 2))
    metrics.frame(reply())
    assert values(metrics, "agvas_queue_depth") == {}
    assert values(metrics, "agvas_engine_ready") == {}
    assert values(metrics, "agvas_streams_open") == {(): 2}
    assert len(values(metrics, "agvas_frames_total")) == 1


class Nvml:
    """The management library of a machine with three GPUs, of which the second does not tell."""

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 3
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, device):
        device._obj.value = index + 1
        return int(index == 1)

    def nvmlDeviceGetMemoryInfo(self, device, memory):
        memory._obj.used, memory._obj.total = device.value * 100, device.value * 1000
        return 0

    def nvmlDeviceGetName(self, device, name, size):
        name.value = b"H"
        return 0


def test_memory_of_gpus_is_measured_where_there_are_some(monkeypatch):
    monkeypatch.setattr(gpu, "_library", lambda: None)
    assert values(Metrics(), "agvas_device_memory_used_bytes") == {}
    monkeypatch.setattr(gpu, "_library", Nvml)
    assert values(Metrics(), "agvas_device_memory_used_bytes") == {(("device", "0"),): 100, (("device", "2"),): 300}
    assert values(Metrics(), "agvas_device_memory_bytes") == {(("device", "0"),): 1000, (("device", "2"),): 3000}
    assert gpu.gpu_memory()[0] == gpu.GpuMemory(0, "H", 100, 1000)


@pytest.mark.gpu
def test_memory_of_the_gpu_here_is_measured():
    (found, *_) = gpu.gpu_memory()
    assert 0 < found.used_bytes < found.total_bytes


def test_the_port_gives_metrics_health_and_readiness(listening):
    metrics = Metrics()
    metrics.frame(reply())
    server = listening(render=metrics.render)
    code, text = get(server, "/metrics?x=1")
    assert code == 200
    assert 'agvas_frames_total{camera="cam-1",status="OK"} 1.0' in text
    assert get(server, "/healthz") == (200, "alive\n")
    assert get(server, "/readyz") == (200, "ready\n")


def test_a_server_that_takes_no_frames_lives_but_is_not_ready_and_says_why(listening):
    server = listening("the engine died:\nkilled by signal 9")
    assert get(server, "/readyz") == (503, "the engine died: killed by signal 9\n")
    assert get(server, "/healthz") == (200, "alive\n")


def test_anything_else_than_get_of_three_paths_is_refused(listening):
    server = listening()
    assert get(server, "/metrics/..")[0] == 404
    assert get(server, "/healthz", "POST")[0] == 405
    assert get(server, "/healthz", "HEAD") == (405, "")
    assert get(server, "/healthz", "BREW")[0] == 501


def test_it_listens_on_ipv6_too(listening):
    try:
        server = listening(host="::1")
    except EngineError:
        pytest.skip("no IPv6 here")
    assert get(server, "/healthz", host="[::1]")[0] == 200


def test_a_port_that_is_taken_is_one_line(listening):
    port = listening().port
    with pytest.raises(EngineError, match=f"^metrics port {port} on 127.0.0.1: address already in use$"):
        MetricsServer("127.0.0.1", port, bytes, str)
    with pytest.raises(EngineError, match=r"^metrics port 1 on no.such.host.invalid: "):
        MetricsServer("no.such.host.invalid", 1, bytes, str)


def test_a_caller_who_sends_too_slowly_or_too_much_is_hung_up_on(listening, monkeypatch):
    monkeypatch.setattr(metrics_http, "CONNECTION_S", 0.05)
    server = listening()
    with connect(server) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        assert slow.recv(1) == b""
    monkeypatch.undo()
    with connect(server) as long:
        long.sendall(b"G" * (MOST_HEAD_BYTES + 1))
        assert long.recv(1) == b""
    assert get(server, "/healthz")[0] == 200


def test_a_caller_who_does_not_read_is_hung_up_on(listening, monkeypatch):
    monkeypatch.setattr(metrics_http, "CONNECTION_S", 0.05)
    server = listening(render=lambda: b"x" * (64 << 20))
    with connect(server) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert deaf.recv(1) == b"H"
        until(lambda: not server._server._open)  # its place is free again although nobody has read the rest


def test_connections_are_few_and_their_places_come_back(listening, monkeypatch):
    monkeypatch.setattr(metrics_http, "CONNECTION_S", 600)  # nobody is hung up on for being slow
    server = listening()
    idle = [connect(server, f"127.0.0.{2 + number // MOST_OF_ADDRESS}") for number in range(MOST_CONNECTIONS)]
    with connect(server, "127.0.0.9") as one_more:
        assert one_more.recv(1) == b""
    for connection in idle:
        connection.close()
    until(lambda: not server._server._open)
    assert get(server, "/healthz")[0] == 200


def test_one_address_does_not_keep_another_one_out(listening, monkeypatch):
    monkeypatch.setattr(metrics_http, "CONNECTION_S", 600)
    server = listening()
    idle = [connect(server, "127.0.0.2") for _ in range(MOST_OF_ADDRESS)]
    with connect(server, "127.0.0.2") as one_more:
        assert one_more.recv(1) == b""
    assert get(server, "/healthz")[0] == 200
    for connection in idle:
        connection.close()


def test_a_caller_who_goes_away_and_a_scrape_that_fails_harm_nobody(listening, capfd):
    def broken():
        raise RuntimeError("no figures")

    server = listening(render=broken)
    with connect(server) as gone:
        gone.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with connect(server) as failed:
        failed.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert failed.recv(1) == b""
    assert get(server, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_nothing_answers_after_the_end():
    server = MetricsServer("127.0.0.1", 0, bytes, str)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        connect(server)


def test_every_metric_is_in_the_documentation_and_the_alerts_use_no_other(monkeypatch):
    monkeypatch.setattr(gpu, "_library", Nvml)
    metrics, answer = (
        Metrics(Live(engines=lambda: [engine("0", True, 1, 1)], bundle=lambda: ("tiny", "0" * 64))),
        reply(),
    )
    answer.scores.anomaly = 0.5
    metrics.frame(answer)
    metrics.call("/a/B", "OK")
    metrics.swap("switched")
    families = list(text_string_to_metric_families(metrics.render().decode()))
    ours = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    ours = {name for name in ours if name.startswith("agvas_")}
    text = (Path(__file__).resolve().parents[2] / "docs" / "operation.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(agvas_\w+)` \|", text, re.MULTILINE)) == ours
    samples = {sample.name for family in families for sample in family.samples}
    (alerts,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rules = yaml.safe_load(alerts)["groups"][0]["rules"]
    assert rules
    for rule in rules:
        used = set(re.findall(r"agvas_\w+", rule["expr"]))
        assert used <= samples, rule["alert"]
