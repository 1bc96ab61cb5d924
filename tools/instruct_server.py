"""A chat endpoint on loopback that answers as a vision model should, or as it is told to: for tests and proofs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """What the server sends back."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    """Bytes that the header promises and the body lacks."""
    drop: bool = False
    """Close the connection without a word."""


Behaviour = Callable[[int, Body], Sent]
"""What to send back to the n-th request, from 1."""


def pictures(body: Body) -> list[str]:
    """The data URIs of a request's pictures."""
    return [part["image_url"]["url"] for part in body["messages"][1]["content"] if part["type"] == "image_url"]


def mark(picture: str) -> str:
    """A word that stands for a picture's content."""
    return hashlib.sha256(picture.encode()).hexdigest()[:12]


def answer_fields(body: Body) -> dict[str, Any]:
    """Fields that may be used for the image that is asked about; the Expectation holds image A's mark."""
    texts = [part["text"] for part in body["messages"][1]["content"] if part["type"] == "text"]
    expected = f"Part {mark(pictures(body)[0])} should be smooth."
    if len(texts) > 3:  # only a normal image's request says more than the pictures' names
        looks = {"Observation": "It is smooth all over.", "Diagnosis": "Nothing breaks it.", "Summary": ""}
        return {"exists": False, "Expectation": expected, **looks, "Explanation": f"{expected} It is."}
    return {
        "exists": True,
        "Expectation": expected,
        "Observation": "A small dark square lies near the left edge.",
        "Diagnosis": "It breaks the smooth surface, which points to foreign matter.",
        "Summary": "The defect is a small dark square near the left edge, as shown in [NOR][ANO][SEG].",
        "Explanation": f"{expected} However, a small dark square lies near the left edge.",
    }


def completion(text: str | None, finish: str = "stop", tokens: tuple[int, int] | None = (1000, 100)) -> Sent:
    """A chat completion as the protocol has it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    document: Body = {"object": "chat.completion", "choices": [choice]}
    if tokens:
        document["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return Sent(json.dumps(document).encode())


def tagged(fields: dict[str, Any]) -> Sent:
    """A completion whose answer is these fields between the tags."""
    return completion(f"<RESPONSE_JSON>\n{json.dumps(fields)}\n</RESPONSE_JSON>")


def well(_: int, body: Body) -> Sent:
    """Answer as a model should."""
    return tagged(answer_fields(body))


class VisionServer:
    """The server; a context manager."""

    def __init__(self, behave: Behaviour = well, keep: bool = True) -> None:
        self.behave = behave
        self.requests: list[tuple[dict[str, str], Body]] = []
        """Headers, by lower-case names, and body of every request, unless they are not kept."""
        self.count = 0
        lock, server = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.count += 1
                    number = server.count
                    if keep:
                        server.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                found = self.path == "/v1/chat/completions"
                sent = server.behave(number, body) if found else Sent(b"no such path", 404)
                if sent.drop:
                    return
                with suppress(OSError):  # the client may be dead
                    self.send_response(sent.status)
                    for name, value in {"Content-Length": str(len(sent.body) + sent.missing), **sent.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(sent.body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # killed clients

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> VisionServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
