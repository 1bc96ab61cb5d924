"""The fuzzer in its short form, and whether it would notice."""

import mmap
import os
import subprocess
import sys

import grpc
import pytest

from agvas_runtime.demo.server_process import server_process
from tools.fuzz import MOST_GROWTH, Wrong, _allowed, fuzz
from tools.fuzz_cases import KINDS, cases
from tools.resident import resident_bytes

CASES, SEED = 1500, 1


def test_hostile_requests_get_what_is_documented_and_leave_the_server_as_it_was():
    with server_process(["--log-level", "error"]) as server:
        report = fuzz(server.port, server.process.pid, SEED, CASES)
        assert server.process.poll() is None
    assert report["wrong"] == []
    assert report["wrong_count"] == 0
    assert sum(report["outcomes"].values()) == CASES
    for expected in ("random bytes: INVALID_ARGUMENT", "images: OK", "streams: OK", "connections: closed"):
        assert report["outcomes"][expected] > 0
    assert report["memory_bytes"]["ratio"] <= MOST_GROWTH == 1.05


def test_a_case_is_made_again_by_its_seed_and_number():
    first, second = list(cases(3, 300)), list(cases(3, 300))
    assert first == second
    assert [case for _, _, case in first] != [case for _, _, case in cases(4, 300)]
    assert {kind for _, kind, _ in cases(5, 4000)} == set(KINDS)


class Failure(grpc.RpcError):
    """How a call ended."""

    def __init__(self, code: str, text: str) -> None:
        self.code, self.details = lambda: grpc.StatusCode[code], lambda: text


@pytest.mark.parametrize(
    ("code", "text", "wrong"),
    [
        ("INVALID_ARGUMENT", "recipe.threshold: found nan", False),
        ("INVALID_ARGUMENT", "that will not do", True),
        ("INTERNAL", "recipe.threshold: found nan", True),
        ("UNKNOWN", "Exception iterating requests!", True),
        ("UNAVAILABLE", "the engine died twice on this frame", True),
        ("RESOURCE_EXHAUSTED", "two\nlines", True),
    ],
)
def test_a_status_that_is_not_documented_is_noticed(code, text, wrong):
    if not wrong:
        assert _allowed(Failure(code, text)) == code
        return
    with pytest.raises(Wrong):
        _allowed(Failure(code, text))


def test_what_processes_share_is_counted_once_and_what_they_have_alone_each():
    script = """
import mmap, sys
shared, own = mmap.mmap(int(sys.argv[1]), 40 << 20), bytearray(b"1" * (30 << 20))
print(sum(shared[:: mmap.PAGESIZE]), flush=True)
sys.stdin.read()
"""
    me = os.getpid()
    before = resident_bytes(me)[me]  # earlier tests may have left children of this process's
    fd = os.memfd_create("shared")
    os.truncate(fd, 40 << 20)
    with mmap.mmap(fd, 40 << 20) as shared:
        shared[:] = b"1" * len(shared)
        alone = resident_bytes(me)[me]
        command = [sys.executable, "-c", script, str(fd)]
        with subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            found = resident_bytes(me)
            child.stdin.close()
    os.close(fd)
    assert 39 << 20 < alone - before < 42 << 20
    assert abs(found[me] - alone) < 2 << 20
    assert 30 << 20 < found[child.pid] < 60 << 20
