"""The fuzzer in its short form, and whether it would notice."""

import subprocess
import sys

import grpc
import pytest

from tools.fuzz import MOST_GROWTH, Wrong, _allowed, fuzz, fuzzed_server
from tools.fuzz_cases import KINDS, cases
from tools.resident import TRIMMED_S, resident_bytes

CASES, SEED = 1500, 1


def test_hostile_requests_get_what_is_documented_and_leave_the_server_as_it_was():
    with fuzzed_server() as server:
        report = fuzz(server.port, server.process.pid, SEED, CASES, idle_s=TRIMMED_S)
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


PARENT = """
import mmap, os, subprocess, sys
print("began", flush=True)
sys.stdin.readline()
fd = os.memfd_create("shared")
os.truncate(fd, 40 << 20)
shared = mmap.mmap(fd, 40 << 20)
shared[:] = b"1" * len(shared)
print("alone", flush=True)
sys.stdin.readline()
subprocess.run([sys.executable, "-c", sys.argv[1], str(fd)], pass_fds=[fd], check=True)
"""
CHILD = """
import mmap, sys
shared, own = mmap.mmap(int(sys.argv[1]), 40 << 20), bytearray(b"1" * (30 << 20))
print(sum(shared[:: mmap.PAGESIZE]), flush=True)
sys.stdin.readline()
"""


def test_what_processes_share_is_counted_once_and_what_they_have_alone_each():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:

        def at_next_line() -> list[int]:
            parent.stdout.readline()
            return list(resident_bytes(parent.pid).values())

        def go_on() -> None:
            parent.stdin.write(b"\n")
            parent.stdin.flush()

        (before,) = at_next_line()
        go_on()
        (alone,) = at_next_line()
        go_on()
        mine, its = at_next_line()
        go_on()
    assert parent.returncode == 0
    assert 39 << 20 < alone - before < 44 << 20
    assert abs(mine - alone) < 4 << 20
    assert 30 << 20 < its < 60 << 20
