"""SIGINT and SIGTERM, heard at once.

Python runs a signal's handler in the main thread, when that one wakes up. But the system may interrupt any other thread
for it, and then a main thread that waits for good never wakes up. What Python does at once, in whichever thread it is,
is to write the signal's number to a file: a thread reads it here.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell`, in a thread, for every signal that comes while the block lasts.

    To be entered in the main thread. Behind the block signals do what they did before it.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        with ours:
            while ours.recv(1):
                tell()

    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=listen, name="signals", daemon=True).start()
    with theirs:
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
