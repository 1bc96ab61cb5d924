"""An OpenAI-compatible chat endpoint (vLLM, LMDeploy, SGLang, hosted): a question, tried until its answer comes."""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agvas_runtime.console import note, one_line
from agvas_runtime.errors import EngineError, InputError
from agvas_train.data.instruct.pace import Pace, retry_after
from agvas_train.data.instruct.prompt import Message

if TYPE_CHECKING:
    from agvas_train.data.instruct.annotate import Annotation

MOST_BYTES = 8 * 2**20
"""Of a reply; a longer one is none."""
MOST_ERROR_BYTES = 64 * 2**10
"""Of an error's reply; what is behind them is not read."""
LONGEST_BACKOFF_S = 60.0
_AGAIN = {408, 409, 425, 429}
_MISTAKES = {401, 403, 404, 405}


class Rejected(Exception):
    """The endpoint does not take this request, whatever is tried; it may take others."""

    paid: Annotation | None = None
    """What came of an ask before it about the same image; None where this was the first."""


class Unavailable(EngineError):
    """No usable reply came, however often it was tried."""

    paid: Annotation | None = None
    """As Rejected.paid."""


class _Passing(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class EndpointConfig:
    """Where and how to ask."""

    url: str
    """The base, such as http://127.0.0.1:8000/v1."""
    model: str
    key: str | None = None
    """Sent as a bearer token; never shown."""
    timeout_s: float = 120.0
    """For a whole reply."""
    retries: int = 5
    backoff_s: float = 1.0
    """About the wait before the first retry; it doubles with each."""
    max_tokens: int = 1024
    """Of an answer; 0 leaves it to the endpoint."""
    temperature: float | None = None
    """None leaves it to the endpoint."""

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and parts.port != 0 and (parts.hostname or "").encode("idna")
        except ValueError:
            usable = False
        if not usable or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise InputError(f"endpoint: found {self.url!r}, expected http://HOST:PORT/v1 or https://HOST/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                "endpoint: found a user, a query or a fragment in the URL, expected none; name --api-key-env"
            )
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise InputError("the API key: found blanks or unprintable characters, expected none")


@dataclass(frozen=True)
class Reply:
    """An answer, and what it cost."""

    text: str
    cut: bool
    """Whether it ended at the most tokens allowed."""
    tokens_in: int | None
    """None where the endpoint does not say."""
    tokens_out: int | None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key must not follow it to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """Asks one endpoint; any number of threads may."""

    def __init__(self, config: EndpointConfig, pace: Pace, sleep: Callable[[float], None] = time.sleep) -> None:
        self.config, self._pace, self._sleep = config, pace, sleep
        self._url = config.url.rstrip("/") + "/chat/completions"
        own = urllib.parse.urlsplit(config.url).hostname in ("127.0.0.1", "::1", "localhost")
        proxies = urllib.request.ProxyHandler({} if own else None)  # no proxy knows this machine's own addresses
        self._opener = urllib.request.build_opener(_NoRedirect, proxies)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if config.key:
            self._headers["Authorization"] = f"Bearer {config.key}"

    def complete(self, messages: list[Message]) -> Reply:
        """The answer to a conversation.

        Raises:
            InputError: the endpoint will take no request as it is configured (key, address).
            Rejected: it does not take this one.
            Unavailable: every try failed.
        """
        body: dict[str, Any] = {"model": self.config.model, "messages": messages}
        if self.config.max_tokens:
            body["max_tokens"] = self.config.max_tokens
        if self.config.temperature is not None:
            body["temperature"] = self.config.temperature
        data = json.dumps(body).encode()
        for attempt in range(self.config.retries + 1):
            self._pace.wait()
            try:
                return _reply(self._send(data))
            except _Passing as failure:
                reason, wait_s = self._clean(str(failure)), failure.wait_s
            if wait_s is not None:
                if wait_s > LONGEST_BACKOFF_S:
                    note(f"{self._url}: asks to be left alone for {wait_s:.0f} s")
                self._pace.hold(wait_s)
            elif attempt < self.config.retries:
                longest = min(self.config.backoff_s * 2**attempt, LONGEST_BACKOFF_S)
                self._sleep(longest * random.uniform(0.5, 1.0))
        raise Unavailable(f"{self._url}: {reason}, after {self.config.retries + 1} tries")

    def _send(self, data: bytes) -> bytes:
        request = urllib.request.Request(self._url, data, self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.config.timeout_s) as response:
                body = _read(response, time.monotonic() + self.config.timeout_s, MOST_BYTES)
            if len(body) > MOST_BYTES:
                raise _Passing(f"a reply of more than {MOST_BYTES >> 20} MiB")
            return body
        except urllib.error.HTTPError as error:
            raise self._failure(error) from None
        except TimeoutError:
            raise _Passing(f"no reply within {self.config.timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise _Passing(str(reason) or type(error).__name__) from None

    def _failure(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            try:
                deadline = time.monotonic() + self.config.timeout_s
                told = _told(_read(error, deadline, MOST_ERROR_BYTES)[:MOST_ERROR_BYTES])
            except (OSError, http.client.HTTPException):
                told = ""
        reason = self._clean(f"HTTP {error.code}" + (f" ({told})" if told else ""))
        if error.code in _AGAIN or error.code >= 500:
            return _Passing(reason, retry_after(error.headers.get("Retry-After")))
        if error.code in _MISTAKES or error.code < 400:
            return InputError(f"{self._url}: found {reason}; check --endpoint, --model and --api-key-env")
        return Rejected(reason)

    def _clean(self, text: str) -> str:
        """One line that does not hold the key."""
        return one_line(text.replace(self.config.key, "***") if self.config.key else text)


def _read(response: Any, deadline: float, most_bytes: int) -> bytes:
    """A body, if it comes in time; of a longer one so many bytes and some more."""
    held = bytearray()
    while len(held) <= most_bytes and (chunk := response.read1(65536)):
        held += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(held)


def _reply(data: bytes) -> Reply:
    """A chat completion's answer and usage."""
    try:
        document = json.loads(data)
        choice = document["choices"][0]
        text = choice["message"]["content"]
        usage = document.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        cut = choice.get("finish_reason") == "length"
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Passing("a reply that is no chat completion") from None
    if text is None and not cut:
        raise _Passing("a reply without an answer")
    if not isinstance(text, str | None):
        raise _Passing("a reply whose answer is no text")
    tokens = [count if isinstance(count, int) and count >= 0 else None for count in counts]
    return Reply(text or "", cut, tokens[0], tokens[1])


def _told(data: bytes) -> str:
    """What an error's body says, in a line of at most 200 characters."""
    try:
        document = json.loads(data)
        error = document.get("error", document)
        told = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError, RecursionError):
        told = None
    return one_line(told if isinstance(told, str) else data[:400].decode("utf-8", "replace"))[:200]
