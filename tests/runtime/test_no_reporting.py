"""Nothing leaves the machine by itself: ONNX Runtime's own reporting is off wherever agvas runs."""

import os
import subprocess
import sys

import pytest

SEGMENT = "from agvas_runtime.segmenter import Segmenter; Segmenter.open().segment('{photo}')"
SERVE = "from agvas_runtime.demo.__main__ import *; from agvas_runtime.demo.server_process import server_process\n"
SERVE += "with server_process() as server: pass"


@pytest.mark.parametrize("program", [SEGMENT, SERVE])
def test_onnx_runtime_keeps_no_events_to_report(program, photo, tmp_path):
    places = {"HOME": tmp_path, "XDG_CACHE_HOME": tmp_path / "cache", "TMPDIR": tmp_path}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {name: str(place) for name, place in places.items()}
    command = [sys.executable, "-c", program.format(photo=photo)]
    subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)
    left = [path for path in tmp_path.rglob("*") if "icrosoft" in str(path) or path.name == ".ses"]
    assert left == []


@pytest.mark.parametrize("module", ["agvas_runtime.cli", "agvas_export.observe", "agvas_train.reference"])
def test_it_is_off_before_onnx_runtime_is_there(module):
    program = f"import {module}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, text=True, capture_output=True)
    assert done.stdout == "1\n"
