"""The command agvas-bench serve: what is asked of it, its report, its errors. No test asks how fast anything is."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from agvas_runtime import console
from agvas_runtime.bench import publish
from agvas_runtime.bench.cli_serve import serve
from agvas_runtime.bench.load import measure
from agvas_runtime.bench.load.step import run_step
from agvas_runtime.bench.report.schema import read_report
from agvas_runtime.errors import EngineError
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from tests.runtime.scripted_inspection import Scripted, answer, answers_all, serving

app = console.make_app("Test.")
app.command()(serve)
app.command()(lambda: None)


def command(capfd, *args):
    with pytest.raises(SystemExit) as left:
        console.run(app, ["serve", *map(str, args)])
    out, err = capfd.readouterr()
    return left.value.code, out, err


def test_one_load_on_our_server_over_both_protocols(capfd, server, tmp_path):
    reports = []
    for protocol in ("agvas", "kserve"):
        out = tmp_path / f"{protocol}.json"
        code, printed, err = command(
            capfd, f"127.0.0.1:{server.port}", "--protocol", protocol, "--camera", "2:20000x2", "--camera", "2",
            "--policy", "block", "--arrivals", "poisson", "--seconds", 1, "--warmup", 0.3, "--wait", 20,
            "--size", "64x48", "--json", "--out", out,
        )  # fmt: skip
        assert code == 0
        assert err.startswith("3 cameras for 1.3 s\n")
        reports.append(json.loads(printed))
        assert reports[-1] == json.loads(out.read_text())
    ours, theirs = reports
    for report in reports:
        assert (report["schema"], report["kind"], report["carried"]) == (3, "serve", None)
        assert report["load"]["frame"] == {"format": "RGB8", "bytes_mean": 64 * 48 * 3, "height": 64, "width": 48}
        assert (report["load"]["arrivals"], report["load"]["seconds"], report["load"]["warmup_s"]) == (
            "poisson",
            1,
            0.3,
        )
        [step] = report["steps"]
        assert set(step["statuses"]) <= {"OK", "DROPPED"}  # a machine that is busy cannot answer all
        assert (
            step["sent"]
            == sum(step["statuses"].values())
            == len(step["samples"]["due_s"])
            == sum(each["sent"] for each in step["per_camera"])
            > 0
        )
        assert step["engine_ms"]["min"] > 0
        assert all(
            latency >= engine + overhead - 1e-3
            for latency, engine, overhead in zip(
                *(step["samples"][f"{name}_ms"] for name in ("latency", "engine", "overhead")), strict=True
            )
            if latency is not None
        )
    assert ours["steps"][0]["samples"]["due_s"] == theirs["steps"][0]["samples"]["due_s"]
    assert ours["target"]["model_sha256"] == theirs["target"]["model_sha256"]
    assert (ours["load"]["policy"], theirs["load"]["policy"]) == ("block", None)
    assert (ours["target"]["model"], theirs["target"]["model"]) == ("agvas-tiny", "agvas")


def test_a_ramp_says_how_many_cameras_are_carried(capfd):
    with serving(answers_all) as (address, _):
        code, out, err = command(
            capfd, address, "--camera", 20, "--seconds", 0.2, "--warmup", 0, "--size", "8x8",
            "--ramp", "--target-p99-ms", 60000, "--max-misses", 0, "--max-cameras", 3,
        )  # fmt: skip
    assert code == 0
    assert [line for line in err.splitlines() if "camera" in line] == [
        "1 camera for 0.2 s", "2 cameras for 0.2 s", "3 cameras for 0.2 s",
    ]  # fmt: skip
    assert "carries 3 cameras of 20 Hz at 60000 ms p99 and with at most 0.0% missed deadlines" in out
    assert [word for word in ("camera-3", "overhead", "scripted", "p99.9") if word not in out] == []


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (EngineError("the server is gone"), 1)])
def test_what_ends_a_ramp_early_leaves_the_finished_steps(capfd, monkeypatch, error, code):
    def two_steps(*arguments):
        if len(arguments[1]) > 1:
            raise error
        return run_step(*arguments)

    monkeypatch.setattr(measure, "run_step", two_steps)
    with serving(answers_all) as (address, _):
        found, out, err = command(
            capfd, address, "--seconds", 0.2, "--warmup", 0, "--ramp", "--target-p99-ms", 60000, "--json"
        )
    assert found == code
    report = json.loads(out)
    assert ([step["cameras"] for step in report["steps"]], report["carried"]) == ([1], None)
    assert "ended early: the report has the steps that were finished" in err


def test_the_file_is_written_whatever_becomes_of_stdout(tmp_path):
    with serving(answers_all) as (address, _):
        code = "from agvas_runtime.bench.cli import app; from agvas_runtime import console; console.run(app)"
        running = subprocess.Popen(
            [sys.executable, "-c", code, "serve", address, "--camera", "200", "--seconds", "1", "--warmup", "0",
             "--size", "8x8", "--json", "--out", tmp_path / "x.json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.stdout.close()  # as `| head -0` does
        err = running.stderr.read()
        running.stderr.close()
        assert running.wait() == 1
    assert err.endswith(b"\nwritten: %b\n" % bytes(tmp_path / "x.json"))
    assert len(read_report(tmp_path / "x.json")["steps"]) == 1


def test_what_cannot_be_written_is_printed_all_the_same(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "check_place", lambda _: None)  # the place was fit, and is no more
    with serving(answers_all) as (address, _):
        code, out, err = command(
            capfd, address, "--seconds", 0.2, "--warmup", 0, "--size", "8x8", "--json", "--out", tmp_path
        )
    assert (code, json.loads(out)["kind"]) == (1, "serve")
    assert f"error: {tmp_path}: cannot write" in err


def test_a_server_that_goes_midway_is_an_error_behind_what_was_measured(capfd):
    def goes(messages, context):
        for index, _ in enumerate(messages):
            if index == 5:
                servicer.server.stop(0)
            yield answer(index)

    with serving(goes) as (address, servicer):
        code, out, err = command(
            capfd, address, "--camera", 50, "--seconds", 0.3, "--warmup", 0,
            "--ramp", "--target-p99-ms", 60000, "--json",
        )  # fmt: skip
    assert code == 1
    [step] = json.loads(out)["steps"]
    assert set(step["statuses"]) == {"OK", "CONNECTION_LOST"}
    assert (sum(step["statuses"].values()), step["held"]) == (15, False)
    assert f"error: {address}: failed to connect to all addresses" in err


def test_a_server_that_wants_a_token_says_so_in_one_line(capfd):
    class Closed(Scripted):
        def GetModel(self, request, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "found no token, expected one")

    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_InspectionServicer_to_server(Closed(answers_all), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        code, out, err = command(capfd, address)
    finally:
        server.stop(0).wait()
    assert (code, out, err) == (1, "", f"error: {address}: found no token, expected one\n")


@pytest.mark.parametrize("protocol", ["agvas", "kserve"])
def test_a_port_where_nobody_listens_is_one_line(capfd, protocol):
    code, out, err = command(capfd, "127.0.0.1:1", "--protocol", protocol)
    assert (code, out) == (1, "")
    assert err.startswith("error: 127.0.0.1:1: failed to connect")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["nowhere"], "error: found the target 'nowhere', expected HOST:PORT"),
        (["127.0.0.1:95536"], "error: found the target '127.0.0.1:95536', expected HOST:PORT"),  # 30000 + 65536
        (["h:0"], "error: found the target 'h:0', expected HOST:PORT"),
        (["h:1", "--out", "."], "error: .: found a folder, expected a file to write"),
        (["h:1", "--out", "/proc/none/x.json"], "error: /proc/none: cannot write into this folder: "),
        (["h:1", "--report", "/proc/none"], "error: /proc/none: cannot write into this folder: "),
        (["h:1", "--camera", "fast"], "error: --camera: found 'fast', expected RATE_HZ[:DEADLINE_MS][xN]"),
        (["h:1", "--camera", "0"], "error: --camera: found 0 Hz in '0'"),
        (["h:1", "--camera", "5:0"], "error: --camera: found a deadline of 0 ms in '5:0'"),
        (["h:1", "--camera", "5x0"], "error: --camera: found 0 cameras in '5x0'"),
        (
            ["h:1", "--camera", "5x999", "--camera", "5x2"],
            "error: --camera: found 2 cameras in '5x2', expected 1 to 1000",
        ),
        (["h:1", "--ramp"], "error: --ramp: found no target, expected --target-p99-ms or --max-misses"),
        (["h:1", "--model", "x"], "error: --model, --input and --output: found beside --protocol agvas"),
        (["h:1", "--size", "0x5"], "error: --size: found '0x5', expected HEIGHTxWIDTH"),
        (["h:1", "--image", "nowhere"], "error: nowhere: no such file or folder"),
        (["h:1", "--token-file", "nowhere"], "error: nowhere: found no token"),
        (["h:1", "--cert", "x"], "error: key: found none, expected both cert and key"),
        (["h:1", "--seconds", "0"], "error: Invalid value for '--seconds'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capfd, args, line):
    code, out, err = command(capfd, *args)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1
