"""What every command line shares: one-line errors with their exit codes, consoles, progress bars, JSON on stdout.

Exit codes: 0 done, 1 failure, 2 bad usage or input, 130 interrupted, 143 ended by SIGTERM. Nothing here knows what a
command does.
"""

import io
import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from agvas_runtime.errors import EngineError, InputError

Item = TypeVar("Item")

EXTRA_OF = {
    **dict.fromkeys(("torch", "transformers", "peft", "accelerate", "safetensors", "tensorboard"), "train"),
    **dict.fromkeys(("onnx", "onnx_ir", "onnxscript"), "export"),
    "onnxruntime": "cpu",
    "ray": "ray",
}
"""Which extra of the distribution brings a package."""

_kept: ContextVar[list[str] | None] = ContextVar("kept_notes", default=None)

# Typer brings its own click or the public one, by its version: take the class from what it exports.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def make_app(summary: str) -> typer.Typer:
    r"""A command group with plain help: paragraphs that begin with a `\b` line keep their line breaks."""
    return typer.Typer(
        help=summary, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
    )


def run(app: typer.Typer, args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and leave the process with its exit code; every expected error is one line on stderr."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be no valid text
    try:
        _mark_paragraphs(app)
        result = typer.main.get_command(app).main(args=args, standalone_mode=False)
        _flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(2)
        fail(error.format_message(), error.exit_code)
    except InputError as error:
        fail(str(error), 2)
    except EngineError as error:
        fail(str(error), 1)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA_OF:
            raise
        fail(f"{error.name} is not installed, which this command needs: pip install 'agvas[{EXTRA_OF[error.name]}]'", 1)
    except OSError as error:
        _flush()  # it may have been stdout that failed
        fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    sys.exit(result if isinstance(result, int) else 0)


def leave_at_sigterm() -> None:
    """Have SIGTERM end the process by way of every `finally`, with exit code 143: nothing half-written stays then.

    Processes of its own that the same signal ended are not missed.
    """

    def leave(number: int, _: object) -> NoReturn:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _flush() -> None:
    """Bring out what stdout holds; where that fails, leave, and nothing is tried again at the interpreter's end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        fail(f"stdout: {error.strerror}", 1)


def _open_streams() -> None:
    """Give closed standard streams something behind them: else the next file or socket would be taken for one."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _mark_paragraphs(app: typer.Typer) -> None:
    r"""Make the `\b` of raw docstrings the character that typer looks for."""
    for command in app.registered_commands:
        if command.callback is not None and command.callback.__doc__:
            command.callback.__doc__ = command.callback.__doc__.replace(r"\b", "\b")


def fail(message: str, code: int) -> NoReturn:
    """Print `error: <one line>` to stderr and leave with this exit code."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


def one_line(text: str) -> str:
    """The text with every run of white space and control characters as one blank: fit for a terminal and a log."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def output() -> Console:
    """The console for results (stdout), which takes text as it is: users choose names, and none of them is markup.

    As wide as the terminal; 120 columns where there is none.
    """
    return Console(width=None if sys.stdout and sys.stdout.isatty() else 120, markup=False, emoji=False)


def note(message: str) -> None:
    """A line for the person at the terminal (stderr): progress, warnings, where a file went. Lost on a full disk."""
    if (kept := _kept.get()) is not None:
        kept.append(message)
        return
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


@contextmanager
def kept_notes() -> Iterator[list[str]]:
    """The lines that this thread notes inside the block, for who has a terminal; none of them is printed here."""
    kept: list[str] = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def progress(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Pass the items on, with a progress bar on stderr; silent when stderr is not a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=label)


def print_json(value: object) -> None:
    """One JSON document on stdout, all ASCII unless that is UTF-8; numbers that are not finite become null."""
    ascii_only = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    print(json.dumps(finite(value), indent=2, ensure_ascii=ascii_only))


def finite(value: Any) -> Any:
    """The value with every NaN and infinity in its lists and dicts replaced by None, as JSON demands."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
