"""Nothing grows: the short form of `agvas_runtime.bench.growth`, which tools/single_pass.py runs over 10,000 frames."""

import json


def test_resident_memory_stays_within_two_percent(run_module):
    # 13 frames a name: every name has been asked, and its pass prepared, before the second quarter begins
    done = run_module("agvas_runtime.bench.growth", "--frames", 300, "--names", 5, "--threads", 1)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["frames"] >= 300
    assert 0 < report["answers_of_one_pass"] < report["frames"]  # hits and misses
    assert report["grown"] <= 0.02
