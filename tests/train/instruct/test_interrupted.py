"""`agvas-data instruct` interrupted, killed, in parts and twice at a time."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from agvas_train.data.instruct import pipeline
from agvas_train.data.instruct.annotate import Annotation
from agvas_train.data.instruct.gallery import NormalImages
from agvas_train.data.instruct.ledger import RECORDS, Ledger, Line
from agvas_train.data.instruct.rules import Fields
from agvas_train.data.instruct.tasks import Task, make_plan
from tests.train.instruct.small_sets import instruct, lines, make_small_set
from tools.instruct_proof import check, prove
from tools.instruct_server import Body, Sent, VisionServer, well

FIELDS = Fields(exists=False, Expectation="", Observation="", Diagnosis="", Summary="", Explanation="")


def start(root: Path, url: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agvas_train.data.cli", "instruct", str(root), "--out", str(root.parent / "out")]
    command += ["--endpoint", url, "--model", "eyes", "--backoff", "0", *options]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_keeps_what_is_done(tmp_path: Path):
    root = make_small_set(tmp_path / "set", defects=30)
    process = None

    def behave(number: int, body: Body) -> Sent:
        if number == 12:
            process.send_signal(signal.SIGINT)
        return well(number, body)

    with VisionServer(behave) as server:
        process = start(root, server.url, "--concurrency", "2")
        said, err = process.communicate(timeout=60)
        assert (process.returncode, said, err) == (130, "", "")
        assert 10 <= len(lines(root.parent / "out" / RECORDS)) < 32
        assert instruct(root, server)[0] == 0
    assert check(root, root.parent / "out") == {"records": 32, "lost": 0, "twice": 0, "confused": 0}


def test_ctrl_c_waits_for_what_is_answered_to_be_written(root: Path):
    interrupted, over = threading.Event(), threading.Event()

    class Interrupting:
        model = "interrupting"
        asked = 0

        def annotate(self, task: Task, _: object) -> Annotation:
            self.asked += 1
            if self.asked == 3:
                os.kill(os.getpid(), signal.SIGINT)
                interrupted.set()
                over.wait(60)
            return Annotation(FIELDS)

    class Slow(Ledger):
        def record(self, line: Line) -> None:
            assert interrupted.wait(60)
            super().record(line)

    plan = make_plan(root)
    annotate = partial(pipeline.annotated, normals=NormalImages(plan.normals), annotator=Interrupting())
    with Slow(root.parent / "out") as ledger, pytest.raises(KeyboardInterrupt):
        pipeline.run(plan.tasks, annotate, ledger, threads=1)
    over.set()
    assert [line["image"] for line in lines(root.parent / "out" / RECORDS)] == [
        "part/test/good/000.png",
        "part/test/good/001.png",
    ]


def test_a_second_process_is_refused(root: Path):
    with VisionServer() as server, Ledger(root.parent / "out"):
        code, _, err = instruct(root, server)
    assert (code, err.count("\n"), server.count) == (2, 1, 0)
    assert "another process" in err


def test_shards_make_the_whole(root: Path):
    with VisionServer() as server:
        for part in (1, 2, 3):
            assert instruct(root, server, "--shard", f"{part}/3")[0] == 0
    assert server.count == 6
    assert check(root, root.parent / "out")["records"] == 6


def test_killed_twice_at_a_failing_endpoint_nothing_is_lost_or_doubled(tmp_path: Path):
    report = prove(tmp_path, 200, kill_at=(70, 150), concurrency=4)
    assert [run["exit"] for run in report["runs"]] == [-signal.SIGKILL, -signal.SIGKILL, 0, 0]
    assert 0 < report["runs"][0]["lines"] < report["runs"][1]["lines"] < 200
    assert report["runs"][3]["summary"]["asks"] == 0
    assert {name: report[name] for name in ("records", "lost", "twice", "confused")} == {
        "records": 200,
        "lost": 0,
        "twice": 0,
        "confused": 0,
    }
    assert {"HTTP 500", "HTTP 429", "garbage", "half a reply", "closed connection", "wrong schema"} < set(
        report["sent"]
    )
