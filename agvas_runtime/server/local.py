"""Streams of cameras on the server's own machine, over a Unix socket, see `local_wire.py`: no pixel is sent.

Whoever may open the socket's file, which is its owner's alone at first, may inspect. A caller who changes a frame while
it is read changes his own picture: pixels are numbers, and image files are copied before they are decoded.
"""

from __future__ import annotations

import logging
import mmap
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore, Condition, Thread
from time import monotonic, perf_counter, sleep
from uuid import uuid4

from google.protobuf.message import DecodeError

from agvas_runtime.apart import Apart
from agvas_runtime.errors import EngineError
from agvas_runtime.local_wire import (
    ANSWER,
    END,
    HELLO,
    MOST_MESSAGE_BYTES,
    REPLY_HEAD,
    REQUEST_HEAD,
    Hangup,
    Head,
    receive_exactly,
    receive_memory,
)
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.callers import Caller
from agvas_runtime.server.guard import CallEnd, Undecodable
from agvas_runtime.server.open_calls import TAKE_S
from agvas_runtime.server.service import InspectionService
from agvas_runtime.server.statuses import Code, TooMuch, status_of

METHOD = "local"
"""Stands for the method where calls are counted and logged."""
HELLO_S = 10.0
"""How long a connection may take to begin."""
MOST_CONNECTIONS = 64
LOOK_S = 0.1
"""How often something is looked at again."""

log = logging.getLogger("agvas.local")
Message = Apart[pb.InspectRequest] | Undecodable


class LocalServer:
    """Listens at a path from the beginning; who connects is served from `start` on.

    Args:
        path: of the socket's file; what a dead server left there is replaced.
        service: answers.
        on_end: told of the end of every connection.
        most_file_bytes: of a frame that is an image file.

    Raises:
        EngineError: the path cannot be listened at, or another server does.
    """

    def __init__(
        self,
        path: Path,
        service: InspectionService,
        on_end: Callable[[CallEnd], None],
        most_file_bytes: int = 64 << 20,
    ) -> None:
        self._path, self._service, self._on_end = path, service, on_end
        self._most_file_bytes, self._stopping = most_file_bytes, False
        self._places = BoundedSemaphore(MOST_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._changed = Condition()
        self._listening = _listen(path)

    def start(self) -> None:
        """Take connections."""
        Thread(target=self._accept, name="local", daemon=True).start()

    def close(self) -> None:
        """Listen no longer; a second call does nothing."""
        self._stopping = True
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        if self._listening.fileno() >= 0:
            self._listening.close()
            self._path.unlink(missing_ok=True)

    def stop(self, patience_s: float, hurried: Callable[[], bool] = lambda: False) -> None:
        """Take no connection any more, wait so long for the streams to end, or until `hurried`, and cut the others."""
        until = monotonic() + patience_s
        self.close()
        with self._changed:
            while self._open and self._service.open_streams and monotonic() < until and not hurried():
                self._changed.wait(LOOK_S)
            for connection in self._open:
                _cut(connection)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.warning("no connection can be taken: %s", error.strerror)
                sleep(LOOK_S)
                continue
            if not self._places.acquire(blocking=False):
                connection.close()
                log.warning("%d connections are open already; one more was refused", MOST_CONNECTIONS)
                continue
            with self._changed:
                self._open.add(connection)
            try:
                Thread(target=self._serve, args=(connection,), name="local", daemon=True).start()
            except RuntimeError as error:
                log.warning("no connection can be served: %s", error)
                self._forget(connection)
                connection.close()

    def _forget(self, connection: socket.socket) -> None:
        self._places.release()
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def _serve(self, connection: socket.socket) -> None:
        began, caller = perf_counter(), Caller("", uuid4().hex, _peer(connection))
        code, text = Code.OK, ""
        try:
            with connection:
                try:
                    code, text = Connection(connection, self._service, caller, self._most_file_bytes).serve()
                finally:
                    _cut(connection)  # closing alone leaves the thread that reads
        except (OSError, Hangup) as error:
            code, text = Code.CANCELLED, f"the caller went away: {error}"
        except Exception:
            log.exception("a local connection failed")
            code, text = Code.INTERNAL, "see the log"
        finally:
            self._forget(connection)
            self._on_end(CallEnd(METHOD, code.name, text, perf_counter() - began, caller))


class Connection:
    """One stream: a thread reads its messages, another one, which calls `serve`, sends the answers."""

    def __init__(
        self, connection: socket.socket, service: InspectionService, caller: Caller, most_file_bytes: int
    ) -> None:
        self._connection, self._service, self._caller = connection, service, caller
        self._most_file_bytes = most_file_bytes
        self._leave: Callable[[], None] = lambda: None
        self._failure: Exception | None = None
        """What ended the caller's messages, if they did not just end."""

    def serve(self) -> tuple[Code, str]:
        """Answer until the caller has no more frames; how it ended. Raises OSError and Hangup where it went away."""
        self._connection.settimeout(HELLO_S)
        fd = receive_memory(self._connection)
        try:
            memory = mmap.mmap(fd, os.fstat(fd).st_size, access=mmap.ACCESS_READ)
        except ValueError:
            raise Hangup("found no memory at all, expected room for a frame") from None
        finally:
            os.close(fd)
        patience = struct.pack("ll", int(TAKE_S), 0)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self._connection.sendall(HELLO)
        code, text = Code.OK, ""
        messages = self._messages(memoryview(memory))
        try:
            for reply in self._service.stream(messages, self._caller.peer, self._caller.request_id, self._when_gone):
                self._send(ANSWER, reply.SerializeToString())
            if self._failure is not None:
                raise self._failure
        except (OSError, Hangup):
            raise
        except Exception as error:
            code, text = status_of(error)
            if code is Code.INTERNAL and not isinstance(error, EngineError):
                log.exception("a local stream failed")
        with suppress(OSError):  # who has all answers may be gone
            self._send(END, f"{code.name} {text}".encode())
        return code, text

    def _when_gone(self, leave: Callable[[], None]) -> None:
        self._leave = leave

    def _messages(self, memory: memoryview) -> Iterator[Message]:
        """What the caller sends. It ends where the caller has no more, or is gone."""
        try:
            while content := self._received(REQUEST_HEAD.size):
                head = Head(*REQUEST_HEAD.unpack(content))
                if head.message_bytes > MOST_MESSAGE_BYTES:
                    raise TooMuch(f"message: found {head.message_bytes} bytes, expected at most {MOST_MESSAGE_BYTES}")
                message = self._received(head.message_bytes) if head.message_bytes else b""
                if len(message) < head.message_bytes:
                    raise Hangup("found the end, expected the message behind its head")
                if self._connection.gettimeout():
                    self._connection.settimeout(None)  # once it is open a camera may be silent as long as it likes
                yield self._decoded(message, head, memory)
        except Exception as error:
            self._failure = error
            raise

    def _received(self, count: int) -> bytes:
        try:
            content = receive_exactly(self._connection, count)
        except (OSError, Hangup):
            self._leave()
            raise
        if not content and _hung_up(self._connection):
            self._leave()
        return content

    def _send(self, kind: int, content: bytes) -> None:
        self._connection.sendall(REPLY_HEAD.pack(kind, len(content)) + content)

    def _decoded(self, content: bytes, head: Head, memory: memoryview) -> Message:
        """A message with the bytes of its frame."""
        try:
            message = pb.InspectRequest.FromString(content)
        except DecodeError:
            found = f"{len(content)} bytes that are no InspectRequest"
            return Undecodable(f"message: found {found}, expected its fields in protobuf's encoding")
        if not head.frame_bytes:
            return Apart(message)
        end = head.offset + head.frame_bytes
        if end > len(memory):
            return Undecodable(
                f"frame: found its end at {end}, expected it within the {len(memory)} bytes of the memory"
            )
        pixels = memory[head.offset : end]
        if message.frame.frame.HasField("raw"):
            return Apart(message, pixels)
        if len(pixels) > self._most_file_bytes:
            return Undecodable(f"frame: found {len(pixels)} bytes, expected at most {self._most_file_bytes}")
        message.frame.frame.encoded = bytes(pixels)
        return Apart(message)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _listen(path: Path) -> socket.socket:
    """The socket of a path that nobody listens at."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        listening.bind(str(path))
        path.chmod(0o600)  # nobody can connect before `listen`
        listening.listen()
    except OSError as error:
        listening.close()
        raise EngineError(f"local {path}: {(error.strerror or str(error)).lower()}") from None
    except EngineError:
        listening.close()
        raise
    return listening


def look_at(path: Path) -> None:
    """Raise EngineError where no server could listen at the path now. What a dead one left there stays."""
    if os.path.lexists(path):
        _left_behind(path)
        return
    _listen(path).close()
    path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove what a server that was killed left at the path."""
    if _left_behind(path):
        path.unlink()


def _left_behind(path: Path) -> bool:
    """Whether there is a socket that nobody listens at. Raises EngineError for any other thing and for a server."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise EngineError(f"local {path}: found a file that is no socket, expected none")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    raise EngineError(f"local {path}: another server listens there")


def _peer(connection: socket.socket) -> str:
    """Who connected, as the kernel says."""
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f"unix:pid={pid},uid={uid}"


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed, and not only its way here."""
    poll = select.poll()
    poll.register(connection, select.POLLHUP)
    return any(event & select.POLLHUP for _, event in poll.poll(0))
