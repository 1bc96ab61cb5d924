"""Tokens in logs and in our own client's hands."""

import logging
import socket
import subprocess
import sys

import pytest

from agvas_runtime.client import AccessDeniedError, Client
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server import health as health_command
from agvas_runtime.server.access import Access
from agvas_runtime.server.callers import Caller, Denials
from agvas_runtime.server.channel import open_channel
from tests.runtime.guard.server import (
    ADMIN,
    ADMIN_TOKEN,
    BOTH_TOKEN,
    GARBAGE,
    HEALTH,
    INSPECT_TOKEN,
    INSPECTION,
    Code,
    outcome,
    running,
)


def test_no_token_gets_into_a_log_or_an_answer(access_path, caplog):
    secret, seen = "a-very-secret-token", []
    with (
        caplog.at_level(logging.DEBUG),
        running(Access(access_path), on_end=lambda end: seen.append(repr(end))) as server,
    ):
        for header in (f"Bearer {secret}", secret, f"Basic {secret}", f"bearer {secret} {secret}"):
            for method in (f"/{INSPECTION}/Segment", f"/{secret}/{secret}"):
                code, text, _ = outcome(server.address, method, metadata=(("authorization", header),))
                assert code is Code.UNAUTHENTICATED
                assert secret not in text
        for token in (INSPECT_TOKEN, ADMIN_TOKEN):
            outcome(server.address, f"/{ADMIN}/Drain", GARBAGE, token=token)
            outcome(server.address, f"/{INSPECTION}/Segment", GARBAGE, token=token)
    ours = [record for record in caplog.records if record.name.startswith("agvas")]
    told = "".join(f"{record.getMessage()} {vars(record)}" for record in ours) + "".join(seen)
    assert "UNAUTHENTICATED" in told
    assert "PERMISSION_DENIED" in told
    for token in (secret, INSPECT_TOKEN, ADMIN_TOKEN, BOTH_TOKEN):
        assert token not in told


def test_those_turned_away_are_logged_once_a_second_for_an_address(caplog):
    now = [0.0]
    denials = Denials(logging.getLogger("agvas.guard"), clock=lambda: now[0])
    for _ in range(5):
        denials.tell(Caller("", "id", "ipv4:10.0.0.7:1"), "/a/b", "UNAUTHENTICATED")
    denials.tell(Caller("camera", "id", "ipv6:%5Bfe80::1%5D:1"), "/a/b", "PERMISSION_DENIED")
    now[0] = 1.0
    denials.tell(Caller("", "id", "ipv4:10.0.0.7:2"), "/a/c", "UNAUTHENTICATED")
    assert [record.getMessage() for record in caplog.records] == [
        "10.0.0.7: UNAUTHENTICATED at /a/b",
        "fe80::1 (camera): PERMISSION_DENIED at /a/b",
        "10.0.0.7: UNAUTHENTICATED at /a/c, and 4 more since the last line",
    ]


def test_those_turned_away_are_not_remembered_for_good(caplog):
    caplog.set_level(logging.ERROR)
    denials = Denials(logging.getLogger("agvas.guard"))
    for number in range(2 * Denials.MOST):
        denials.tell(Caller("", "id", f"ipv4:10.1.{number}:1"), "/a/b", "UNAUTHENTICATED")
    assert len(denials) == Denials.MOST


def test_our_client_says_that_it_is_turned_away(guarded, photo):
    with Client(guarded.address) as client:
        calls = (client.model, client.wait_ready, lambda: client.segment(photo), lambda: list(client.explain(photo)))
        for call in calls:
            with pytest.raises(AccessDeniedError, match=f"{guarded.address}: authorization: found no token"):
                call()
    text = "auditor has no right 'inspect'"
    with Client(guarded.address, token=ADMIN_TOKEN) as client, pytest.raises(AccessDeniedError, match=text):
        client.model()
    with Client(guarded.address, token=INSPECT_TOKEN) as client:
        client.wait_ready()
        assert client.segment(photo).answer == "camera"


@pytest.mark.parametrize(("token", "code"), [(INSPECT_TOKEN, Code.OK), (None, Code.UNAUTHENTICATED)])
def test_no_call_takes_a_way_through_a_proxy(guarded, monkeypatch, token, code):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert outcome(guarded.address, f"/{HEALTH}/Check", token=token)[0] is code


def test_a_token_goes_along_with_calls_of_every_kind(guarded):
    with open_channel(guarded.address, token=BOTH_TOKEN) as channel:
        stub = pb_grpc.InspectionStub(channel)
        assert stub.Segment(pb.SegmentRequest()).answer == "operator"
        assert stub.Segment.future(pb.SegmentRequest()).result().answer == "operator"
        assert [event.text for event in stub.Explain(pb.SegmentRequest())] == ["a"]
        assert len(list(stub.Inspect(iter([pb.InspectRequest()])))) == 1
        assert channel.stream_unary(f"/{INSPECTION}/GetModel")(iter([b""]))


def test_the_health_command_shows_a_token(guarded, tmp_path):
    token = tmp_path / "token"
    token.write_text(f"{INSPECT_TOKEN}\n")
    command = [sys.executable, "-m", health_command.__name__, guarded.address]
    for arguments, environment, code, text in (
        ([], {}, 1, "UNAUTHENTICATED"),
        (["--token-file", str(token)], {}, 0, "SERVING"),
        ([], {"AGVAS_TOKEN_FILE": str(token)}, 0, "SERVING"),
        (["--token-file", str(tmp_path / "none")], {}, 2, "found no token"),
    ):
        done = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, text in done.stdout + done.stderr) == (code, True)
