"""An engine process's first steps: `python -m agvas_runtime.server.engine.worker PIPE ARENA`, started by `child.py`.

It lives as long as the server does: it ends when the pipe does, and the kernel kills it when the server is gone, in the
midst of a run, too. Ctrl-C and a SIGTERM to the whole group reach it as well, but the server decides what they mean.
"""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1
LEFT_TO_THE_SERVER = (signal.SIGINT, signal.SIGTERM)
"""Held back when it starts, so that they do not end it before it ignores them."""


def main() -> None:
    """Take the numbers of two open files, and work until told to stop."""
    for number in LEFT_TO_THE_SERVER:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, LEFT_TO_THE_SERVER)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    from agvas_runtime.server.engine.desk import work  # takes half a second, with neither of the above

    sys.exit(work(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
