"""`python -m agvas_runtime.demo`: the first thing a newcomer sees, and that it leaves nothing running."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import DEMO_FRAMES

DEMO = "agvas_runtime.demo"


def test_the_demo_plays_its_own_frames_and_exits_0(run_module, tmp_path):
    done = run_module(DEMO, "--fps", "0", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["#", "frame", "verdict"]
    assert [line.split()[0] for line in lines[-3:-1]] == ["p50", "p99"]
    assert "60 frames: " in lines[-1]
    assert "round trip p50" in lines[-1]
    names = {f"{path.stem}_overlay.png" for path in DEMO_FRAMES.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "server stopped" in done.stderr


def test_the_demo_plays_any_folder(run_module, photo, tmp_path):
    done = run_module(DEMO, "--frames", photo.parent, "--count", "2", "--fps", "0", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_without_images_is_exit_code_2_and_one_line(run_module, tmp_path):
    done = run_module(DEMO, "--frames", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: no images in this folder")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_interrupting_the_demo_stops_its_server_too(number, whole_group, tmp_path):
    command = [sys.executable, "-m", DEMO, "--count", "100000", "--out", str(tmp_path)]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for _ in range(3):  # the head of the table and two frames: by then everything is imported
        demo.stdout.readline()
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) == 2  # the server and its engine
    if whole_group:
        os.killpg(demo.pid, number)  # what Ctrl-C does
    else:
        demo.send_signal(number)
    _, err = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Traceback" not in err
    assert not any(child.is_running() for child in children)


def test_the_demo_s_frames_are_small_enough_to_ship():
    sizes = [path.stat().st_size for path in DEMO_FRAMES.iterdir()]
    assert 8 <= len(sizes) <= 12
    assert sum(sizes) < 300_000
