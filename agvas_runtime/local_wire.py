"""How client and server of one machine talk over a Unix socket: the messages of `Inspect`, pixels in shared memory.

A connection is one stream. The client begins with HELLO and the descriptor of its memory, an anonymous file that can
never shrink (`memfd_create`, sealed); the server answers HELLO. Then every message of the client's is a head, which
says where in that memory its frame's bytes lie, and an InspectRequest without them. Every message of the server's is a
head and an InspectResponse, the last one a code and a text, as gRPC's status has them.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

HELLO = b"agvas-local-1"
REQUEST_HEAD = struct.Struct("<IQQ")
"""Bytes of the message; where the frame's bytes begin in the memory; how many these are."""
REPLY_HEAD = struct.Struct("<BI")
"""ANSWER or END; bytes of the message."""
ANSWER, END = 0, 1
MOST_MESSAGE_BYTES = 1 << 20
"""Of a request without its frame."""


class Hangup(Exception):
    """The other end is gone, or does not talk as it must; the text says how."""


@dataclass(frozen=True)
class Head:
    """What precedes a request."""

    message_bytes: int
    offset: int
    """Where the frame's bytes begin in the memory."""
    frame_bytes: int


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes; none where the other end sends nothing any more. Raises Hangup in between, OSError."""
    received = bytearray()
    while len(received) < count:
        piece = connection.recv(count - len(received))
        if not piece and received:
            raise Hangup(f"found the end after {len(received)} of {count} bytes")
        if not piece:
            return b""
        received += piece
    return bytes(received)


def send_memory(connection: socket.socket, fd: int) -> None:
    """Begin a connection, as the client; raises OSError."""
    connection.sendmsg([HELLO], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def receive_memory(connection: socket.socket) -> int:
    """The descriptor of the client's memory; it is the caller's to close.

    Raises Hangup for anything that is none, or that its owner could take away while it is read; OSError.
    """
    hello, control, _, _ = connection.recvmsg(len(HELLO), socket.CMSG_SPACE(4 * array.array("i").itemsize))
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        if hello != HELLO:
            raise Hangup(f"found {len(hello)} bytes that are no greeting, expected {HELLO.decode()}")
        if len(fds) != 1:
            raise Hangup(f"found {len(fds)} descriptors beside the greeting, expected that of the memory")
        if not is_sealed(fds[0]):
            raise Hangup("found memory that can shrink, expected that of memfd_create, sealed (F_SEAL_SHRINK)")
        os.set_inheritable(fds[0], False)
        return fds.pop()
    finally:
        for fd in fds:
            os.close(fd)


def is_sealed(fd: int) -> bool:
    """Whether nobody can make the file shorter; false for what is no memory."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False
