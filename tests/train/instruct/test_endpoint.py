"""One question to an endpoint: what is tried again, what is not, and who gets to see the key."""

import json
import socket
import threading
from contextlib import suppress
from datetime import datetime, timezone

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.instruct.endpoint import MOST_BYTES, Endpoint, EndpointConfig, Rejected, Unavailable
from agvas_train.data.instruct.pace import Pace, retry_after
from tools.instruct_server import Sent, VisionServer, completion

ASK = [{"role": "user", "content": "?"}]
GOOD = completion("good")
KEY = "sk-very-secret"


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def ask(server: VisionServer, clock: Clock | None = None, **options):
    clock = clock or Clock()
    config = EndpointConfig(server.url, "eyes", **options)
    return Endpoint(config, Pace(clock=clock, sleep=clock.sleep), clock.sleep).complete(ASK)


def in_turn(*sent: Sent) -> VisionServer:
    return VisionServer(lambda number, _: sent[min(number, len(sent)) - 1])


def test_the_protocol_is_spoken():
    with in_turn(completion("yes", tokens=(7, 3))) as server:
        reply = ask(server, key=KEY, max_tokens=50, temperature=0.5)
    assert (reply.text, reply.cut, reply.tokens_in, reply.tokens_out) == ("yes", False, 7, 3)
    [(headers, body)] = server.requests
    assert body == {"model": "eyes", "messages": ASK, "max_tokens": 50, "temperature": 0.5}
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["content-type"] == "application/json"


def test_what_is_not_set_is_not_sent():
    with in_turn(completion("yes", finish="length", tokens=None)) as server:
        reply = ask(server, max_tokens=0)
    assert (reply.cut, reply.tokens_in, reply.tokens_out) == (True, None, None)
    [(headers, body)] = server.requests
    assert set(body) == {"model", "messages"}
    assert "authorization" not in headers


@pytest.mark.parametrize(
    "failure",
    [
        Sent(b"broken", 500),
        Sent(b"", 503),
        Sent(b"", 408),
        Sent(b"<html>"),
        Sent(b'{"choices": []}'),
        Sent(b"[" * 100_000),
        completion(None),
        Sent(json.dumps({"choices": [{"message": {"content": 7}}]}).encode()),
        Sent(GOOD.body[:40], missing=len(GOOD.body) - 40),
        Sent(b"x" * (MOST_BYTES + 1)),
        Sent(drop=True),
    ],
    ids=["500", "503", "408", "html", "no choice", "deep", "no answer", "number", "half", "huge", "closed"],
)
def test_what_may_pass_is_tried_again(failure: Sent):
    with in_turn(failure, failure, GOOD) as server:
        assert ask(server).text == "good"
    assert server.count == 3


def test_waits_double_and_are_spread():
    clock = Clock()
    with in_turn(Sent(status=500)) as server, pytest.raises(Unavailable, match="HTTP 500, after 6 tries"):
        ask(server, clock, retries=5, backoff_s=2.0)
    assert server.count == 6
    longest = [2.0, 4.0, 8.0, 16.0, 32.0]
    assert all(top / 2 <= slept <= top for slept, top in zip(clock.slept, longest, strict=True))
    assert len({slept / top for slept, top in zip(clock.slept, longest, strict=True)}) > 1


def test_retry_after_holds_everybody_back():
    clock = Clock()
    with in_turn(Sent(status=429, headers={"Retry-After": "17"}), GOOD) as server:
        assert ask(server, clock).text == "good"
    assert clock.slept == [17.0]


def test_a_slow_reply_is_given_up():
    release = threading.Event()

    def slow(number: int, _: object) -> Sent:
        if number == 1:
            release.wait(60)
        return GOOD

    with VisionServer(slow) as server:
        assert ask(server, timeout_s=0.2).text == "good"
        release.set()
    assert server.count == 2


def test_an_error_that_comes_by_drops_is_given_up():
    pause, whole = threading.Event(), threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 500 Broken\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                connection.sendall(b"x")
                pause.wait(0.01)
            whole.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=drip, daemon=True)
        server.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(Unavailable, match="HTTP 500, after 1 tries"):
            Endpoint(EndpointConfig(url, "eyes", timeout_s=0.2, retries=0), Pace()).complete(ASK)
        server.join(30)
    assert not whole.is_set()


def test_of_a_long_error_only_the_beginning_is_read():
    told = json.dumps({"pictures": "x" * (1 << 20), "error": "too many"}).encode()
    with in_turn(Sent(told, 400)) as server, pytest.raises(Rejected) as found:
        ask(server)
    assert str(found.value).startswith('HTTP 400 ({"pictures": "xxx')
    assert len(str(found.value)) < 250


def test_nobody_there_is_no_mystery():
    with VisionServer() as server:
        pass
    with pytest.raises(Unavailable, match=r"chat/completions: .*refused, after 3 tries"):
        ask(server, retries=2)


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_a_wrong_key_or_address_is_not_tried_again(status: int):
    told = json.dumps({"error": {"message": f"no such\nkey: {KEY}"}}).encode()
    with in_turn(Sent(told, status, {"Location": "http://127.0.0.1:1/"})) as server:
        with pytest.raises(InputError, match=f"HTTP {status}") as found:
            ask(server, key=KEY)
        assert "no such key: ***" in str(found.value)
    assert server.count == 1


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with in_turn(GOOD) as server:
        assert ask(server, retries=0).text == "good"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_not_taken_is_not_tried_again(status: int):
    with in_turn(Sent(b'{"error": {"message": "too many pictures"}}', status)) as server:
        config = EndpointConfig(server.url, "eyes")
        with pytest.raises(Rejected) as found:
            Endpoint(config, Pace()).complete(ASK)
    assert (str(found.value), server.count) == (f"HTTP {status} (too many pictures)", 1)


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8000", "file:///etc/passwd", "http://", "http://a b/v1", "http://h:99999/v1", "http://ü/"),
        *("http://a..b/v1", "http://.a/v1", f"http://{'a' * 64}.b/v1"),
    ],
)
def test_an_address_must_be_one(url: str):
    with pytest.raises(InputError, match="expected http://HOST"):
        EndpointConfig(url, "eyes")


def test_a_key_has_no_place_in_the_address():
    with pytest.raises(InputError, match="--api-key-env") as found:
        EndpointConfig(f"https://user:{KEY}@host/v1", "eyes")
    assert KEY not in str(found.value)
    with pytest.raises(InputError, match="unprintable") as found:
        EndpointConfig("https://host/v1", "eyes", key=f"{KEY}\r\nHost: other")
    assert KEY not in str(found.value)


def test_a_rate_spreads_requests():
    clock = Clock()
    pace = Pace(30, clock, clock.sleep)
    passed = []
    for _ in range(4):
        pace.wait()
        passed.append(clock.now)
    assert passed == [0, 2, 4, 6]
    pace.hold(10)
    pace.hold(1)
    pace.wait()
    assert clock.now == 16


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("12", 12),
        ("Thu, 01 Jan 2026 00:01:30 GMT", 90),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
        ("soon", None),
        ("-3", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header: str | None, seconds: float | None):
    assert retry_after(header, datetime(2026, 1, 1, tzinfo=timezone.utc)) == seconds
