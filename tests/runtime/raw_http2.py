"""A caller that speaks HTTP/2 byte by byte, for what no gRPC client does: claim, withhold, take nothing."""

import socket
import struct
from time import monotonic

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW = 0, 1, 3, 4, 6, 8
INITIAL_WINDOW = 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
LONGEST_S = 10
"""For a test that fails to fail, in spite of pings that go on."""


def frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
    return struct.pack(">I", len(data))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + data


def grpc_message(data: bytes, compressed: bool = False) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


def _text(text: str) -> bytes:
    data = text.encode("latin-1")
    assert len(data) < 127
    return bytes((len(data),)) + data


class RawCaller:
    """One connection. With a window of 0 it never takes a byte of a reply, and still answers pings."""

    def __init__(self, port: int, window: int = 65535) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LONGEST_S)
        self._unread = b""
        self._ends: dict[int, bytes] = {}
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, window)))

    def __enter__(self) -> "RawCaller":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, stream: int, method: str, **headers: str) -> None:
        """Begin a call; streams are odd numbers, each larger than the one before."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        pairs = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x", "te": "trailers"}
        pairs |= {"content-type": "application/grpc", **named}
        block = b"".join(b"\0" + _text(key) + _text(value) for key, value in pairs.items())
        self.socket.sendall(frame(HEADERS, END_HEADERS, stream, block))

    def send(self, stream: int, data: bytes, end: bool = True) -> None:
        """Send a piece of a request, at most 16 KiB."""
        self.socket.sendall(frame(DATA, END_STREAM if end else 0, stream, data))

    def read(self) -> tuple[int, int, int, bytes] | None:
        """The next frame as kind, flags, stream and content; None where the server has hung up."""
        while len(self._unread) < 9 or len(self._unread) < 9 + int.from_bytes(self._unread[:3], "big"):
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._unread += data
        size = int.from_bytes(self._unread[:3], "big")
        kind, flags, stream = self._unread[3], self._unread[4], int.from_bytes(self._unread[5:9], "big")
        content, self._unread = self._unread[9 : 9 + size], self._unread[9 + size :]
        if kind in (SETTINGS, PING) and not flags & ACK:
            self.socket.sendall(frame(kind, ACK, 0, content if kind == PING else b""))
        return kind, flags, stream, content

    def end_of(self, stream: int) -> bytes:
        """What ended a call: its trailing headers, which hold the status, or nothing for a reset."""
        until = monotonic() + LONGEST_S
        while stream not in self._ends:
            assert monotonic() < until, "the call does not end"
            found = self.read()
            assert found is not None, "the server hung up"
            kind, flags, of, content = found
            if kind == RESET or (kind == HEADERS and flags & END_STREAM):
                self._ends[of] = content if kind == HEADERS else b""
        return self._ends[stream]
