"""An engine process's first steps: `python -m agvas_runtime.server.engine.worker PIPE ARENA`, started by `child.py`.

It lives as long as the server does: it ends when the pipe does, and the kernel kills it when the server is gone, in the
midst of a run, too. Ctrl-C and a SIGTERM to the whole group reach it as well, but the server decides what they mean.
"""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Take the numbers of two open files, and work until told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    from agvas_runtime.server.engine.desk import work  # takes half a second, with neither of the above

    sys.exit(work(*map(int, sys.argv[1:])))


if __name__ == "__main__":
    main()
