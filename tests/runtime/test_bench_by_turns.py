"""Processes that measure by turns: never two at once, and both get on."""

import json
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

from agvas_runtime.bench.by_turns import ByTurns
from agvas_runtime.bench.cli_compare import compared
from agvas_runtime.bench.report.schema import read_report
from agvas_runtime.errors import InputError


def test_turns_never_meet_and_everyone_has_his(tmp_path):
    inside, order, met = [], [], []

    def measure(name):
        turns = ByTurns(tmp_path / "turns")
        for _ in range(4):
            with turns.turn():
                inside.append(name)
                met.append(len(inside))
                time.sleep(0.02)
                order.append(name)
                inside.remove(name)

    threads = [threading.Thread(target=measure, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [1] * 8
    assert sum(first != second for first, second in pairwise(order)) >= 5


def test_without_a_file_nobody_waits():
    with ByTurns(None).turn(), ByTurns(None).turn():
        pass


def test_a_file_that_cannot_be_made_is_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"--by-turns .*/nowhere/turns: cannot be opened: No such file"),
        ByTurns(tmp_path / "nowhere" / "turns").turn(),
    ):
        pass


def test_two_runs_at_once_are_compared_bout_by_bout(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from agvas_runtime.bench.cli import main; main()",
        "engine",
        "--frames",
        "100",
        "--warmup",
        "1",
    ]
    command += ["--spread", "0", "--batch", "1", "--no-alone", "--by-turns", str(tmp_path / "turns"), "--out"]
    files = [tmp_path / "old.json", tmp_path / "new.json"]
    running = [subprocess.Popen([*command, str(file)], stdout=subprocess.DEVNULL) for file in files]
    assert [process.wait(120) for process in running] == [0, 0]
    old, new = map(read_report, files)
    spans = sorted(
        (began, began + 1e-3 * sum(report["contenders"][0]["samples"]["times_ms"]["call"][20 * bout : 20 * bout + 20]))
        for report in (old, new)
        for bout, began in enumerate(report["bouts_began_s"])
    )
    assert all(end <= begins for (_, end), (begins, _) in pairwise(spans))
    said = json.loads(json.dumps(compared(old, new, "old", "new")))
    assert said["pairs"] == 5
    assert {each["verdict"] for each in said["changes"]} <= {"slower", "faster", "no change beyond noise"}
